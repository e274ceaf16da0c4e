"""Connections for planning and carrying out, on a database with tables that hold data."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from tests.integration.capture.helpdesk import TABLES


@pytest.fixture
def desk(database: str) -> str:
    """Give the dsn of a database with the helpdesk's tables and some rows, nothing installed."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLES)
        connection.execute(
            "INSERT INTO conversations (account_id, channel_id) SELECT 1 + i % 5, i % 3 FROM generate_series(1, 99) i"
        )
    return database


@pytest.fixture
async def session(desk: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Open an autocommit connection as the superuser."""
    async with await AsyncConnection.connect(desk, autocommit=True) as connection:
        yield connection
