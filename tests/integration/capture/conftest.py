"""A database with the helpdesk and its counters installed, written to by a role without rights on anything of ours."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from cdc_counter.embedded import PostgresServer
from tests.integration.capture.helpdesk import TABLES, install, make_writer
from tests.rig.databases import database_name, fresh_database


@pytest.fixture(scope="module")
def installed(postgres: PostgresServer) -> Iterator[str]:
    """Name a database with empty tables and every counter installed, to be copied: installing takes far longer."""
    with fresh_database(postgres) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLES)
            make_writer(connection)
        asyncio.run(install(dsn))
        yield database_name(dsn)


@pytest.fixture
def helpdesk(postgres: PostgresServer, installed: str) -> Iterator[str]:
    """Give the dsn of a database with empty tables and every counter installed."""
    with fresh_database(postgres, template=installed) as dsn:
        yield dsn


@pytest.fixture
def connection(helpdesk: str) -> Iterator[psycopg.Connection[Any]]:
    """Open an autocommit connection to the helpdesk, as its superuser."""
    with psycopg.connect(helpdesk, autocommit=True) as opened:
        yield opened
