"""A database with the helpdesk and its counters installed, written to by a role without rights on anything of ours."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.capture.helpdesk import TABLES, install, make_writer


@pytest.fixture
async def helpdesk(database: str) -> str:
    """Give the dsn of a database with empty tables and every counter installed."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLES)
        make_writer(connection)
    await install(database)
    return database


@pytest.fixture
def connection(helpdesk: str) -> Iterator[psycopg.Connection[Any]]:
    """Open an autocommit connection to the helpdesk, as its superuser."""
    with psycopg.connect(helpdesk, autocommit=True) as opened:
        yield opened
