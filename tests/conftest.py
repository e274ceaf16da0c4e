"""Real servers for every test: PostgreSQL 18 and Redis from wheels, PostgreSQL 15 where this machine has it.

Tests that use `postgres` or `database` run on both versions. Without PostgreSQL 15 its half is deselected,
and the summary of the run says so; so it does of the long part of the fault programme, which `make fault` runs.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psycopg
import pytest

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.rig.browser import launched
from tests.rig.databases import fresh_database
from tests.rig.javascript import BrowserProgram, install_browser, install_packages, node
from tests.rig.memory import keep_temporary_files_in_memory
from tests.rig.redis import flush
from tests.rig.servers import POSTGRES15_VARIABLE, postgres15_bin_dir

if TYPE_CHECKING:
    from playwright.async_api import Browser

_NOT_RUN = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make fault` ask for everything."""
    parser.addoption("--programme", action="store_true", help="also run the long tests of the fault programme")


def pytest_configure() -> None:
    """Set up what every process of the run inherits."""
    keep_temporary_files_in_memory()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs PostgreSQL 15, and deselect it where there is none; so what is too long for every run."""
    if not config.getoption("programme"):
        long = [item for item in items if _is_long(item)]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    needing = [item for item in items if _needs_postgres15(item)]
    for item in needing:
        item.add_marker("postgres15")
    if needing and postgres15_bin_dir() is None:
        config.stash[_NOT_RUN] = len(needing)
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was not tested."""
    if not config.getoption("programme"):
        terminalreporter.line("The long tests of the fault programme were not run: `make fault` runs them.")
    # With workers the items are collected in them, so their number is not known here.
    if postgres15_bin_dir() is None and (config.stash.get(_NOT_RUN, 0) or config.getoption("numprocesses", None)):
        terminalreporter.section("not tested", yellow=True)
        terminalreporter.line(
            "Nothing was run on PostgreSQL 15: no server program found. Install postgresql-15, or name its bin folder"
            f" in ${POSTGRES15_VARIABLE}. On PostgreSQL 18 the same tests were run."
        )


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("programme") is not None or (
        item.get_closest_marker("programme15") is not None and _needs_postgres15(item)
    )


def _needs_postgres15(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function):
        return False
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return (
        item.get_closest_marker("postgres15") is not None
        or "postgres15" in item.fixturenames
        or parameters.get("postgres") == "15"
    )


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    """PostgreSQL 18, shared by all tests; fsync is off, for nothing here tests a power failure."""
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def postgres15() -> Iterator[PostgresServer]:
    """PostgreSQL 15, the oldest supported version; tests that need it are deselected where it is missing."""
    with PostgresServer(bin_dir=postgres15_bin_dir(), fsync=False) as server:
        yield server


@pytest.fixture(scope="session", params=["18", "15"], ids=["postgres18", "postgres15"])
def postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """Each supported PostgreSQL in turn. `@pytest.mark.parametrize("postgres", ["18"], indirect=True)` picks one."""
    return cast("PostgresServer", request.getfixturevalue(f"postgres{request.param}"))


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """Give the dsn of a fresh database, as its superuser."""
    with fresh_database(postgres) as dsn:
        yield dsn


@pytest.fixture
def database18(postgres18: PostgresServer) -> Iterator[str]:
    """As `database`, on PostgreSQL 18 only: where the version can't matter."""
    with fresh_database(postgres18) as dsn:
        yield dsn


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """Open an autocommit connection to `database`."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Share one Redis among all tests. Use `redis_url` for an empty one."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Give the URL of a Redis that runs and is empty, also after a test that crashed it."""
    redis_server.start()
    flush(redis_server.port)
    return redis_server.url


@pytest.fixture(scope="session", name="node")
def node_program() -> Path:
    """Give the Node.js program."""
    return node()


@pytest.fixture(scope="session")
def js_modules() -> Path:
    """Install the npm packages; give the folder to run scripts in."""
    return install_packages()


@pytest.fixture(scope="session")
def browser_program() -> BrowserProgram:
    """Unpack Chromium."""
    return install_browser()


@pytest.fixture
async def browser(browser_program: BrowserProgram) -> AsyncIterator["Browser"]:
    """Start a headless Chromium."""
    from playwright.async_api import async_playwright  # noqa: PLC0415  unit tests must not wait for it

    async with async_playwright() as playwright, await launched(playwright, browser_program) as started:
        yield started
