"""The helpdesk of the demo: every action runs, does what it says, and the recount is fair while others write."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import CounterState, Reading
from cdc_counter.demo.actions import BUTTONS, TRAFFIC, Action, perform
from cdc_counter.demo.recount import Verdict, arrange, recount
from cdc_counter.demo.traffic import writing
from cdc_counter.embedded import PostgresServer
from cdc_counter.resources import sql_blocks
from tests.rig.databases import database_name, fresh_database
from tests.rig.eventually import eventually

BLOCKS = sql_blocks("demo")


@pytest.fixture(scope="module")
def filled(postgres18: PostgresServer) -> Iterator[str]:
    """Name a database with the helpdesk's tables and rows, to be copied."""
    with fresh_database(postgres18) as dsn:
        with psycopg.connect(dsn) as connection:
            for block in ("schema", "data"):
                connection.execute(BLOCKS[block].encode())
        yield database_name(dsn)


@pytest.fixture
def helpdesk(postgres18: PostgresServer, filled: str) -> Iterator[str]:
    with fresh_database(postgres18, template=filled) as dsn:
        yield dsn


@pytest.fixture
async def application(helpdesk: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(helpdesk, autocommit=True) as connection:
        yield connection


async def _one(connection: psycopg.AsyncConnection, query: str) -> object:
    row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


OPEN = "SELECT count(*) FROM helpdesk.conversations WHERE account_id = 1 AND status = 'open'"
EVERYTHING = "SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM helpdesk.conversations AS c"


class Counted:
    """Readings that are counted from the table, off by `wrong` for one tag; `version` is as late as can be."""

    def __init__(self, dsn: str, wrong: int = 0, version: Lsn = Lsn(1 << 60)) -> None:  # noqa: B008  immutable
        self.dsn, self.wrong, self.version = dsn, wrong, version

    async def read(self, counter: str, scope: str) -> Reading:
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            rows = await (await connection.execute(BLOCKS["recount"].encode(), {"account": int(scope)})).fetchall()
        values = dict(arrange(rows)[counter])
        if counter == "open_by_tag":
            values["vip"] += self.wrong
        return Reading(counter, scope, values, self.version, "epoch", CounterState.LIVE, sequence=1)


async def test_there_are_thousands_of_conversations_before_any_counter(application: psycopg.AsyncConnection) -> None:
    assert await _one(application, "SELECT count(*) FROM helpdesk.conversations WHERE account_id < 4") == 24_000
    assert await _one(application, "SELECT count(DISTINCT tags) FROM helpdesk.conversations") > 50  # type: ignore[operator]


@pytest.mark.parametrize("action", [*TRAFFIC, *BUTTONS.values()], ids=lambda action: action.what)
async def test_action_runs_and_is_noted(application: psycopg.AsyncConnection, action: Action) -> None:
    rows = await perform(application, action, 1, "you")
    note = await (await application.execute("SELECT who, what, row_count FROM helpdesk.demo_activity")).fetchall()
    assert note == [("you", action.what, rows)]


async def test_close_closes_a_hundred(application: psycopg.AsyncConnection) -> None:
    before = await _one(application, OPEN)
    assert await perform(application, BUTTONS["close"], 1, "you") == 100
    assert await _one(application, OPEN) == before - 100  # type: ignore[operator]


async def test_roll_back_leaves_every_row_as_it_was(application: psycopg.AsyncConnection) -> None:
    before = await _one(application, EVERYTHING)
    assert await perform(application, BUTTONS["roll-back"], 1, "you") == 500
    assert await _one(application, EVERYTHING) == before


async def test_traffic_changes_the_table_and_stops_when_told(
    application: psycopg.AsyncConnection, helpdesk: str
) -> None:
    seen = "SELECT count(DISTINCT what) FROM helpdesk.demo_activity"
    async with writing(helpdesk):
        await eventually(lambda: _one(application, seen), "ten kinds of change", until=lambda kinds: kinds >= 10)  # type: ignore[operator]
    after = await _one(application, EVERYTHING)
    writers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await eventually(lambda: _one(application, writers), "no writer is connected", until=lambda count: count == 0)
    assert await _one(application, EVERYTHING) == after


async def test_paused_traffic_writes_nothing(application: psycopg.AsyncConnection, helpdesk: str) -> None:
    await application.execute("UPDATE helpdesk.demo_traffic SET running = false")
    looks = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    async with writing(helpdesk):
        start = await _one(application, looks)
        await eventually(lambda: _one(application, looks), "writers looked", until=lambda n: n > start + 20)  # type: ignore[operator]
        assert await _one(application, "SELECT count(*) FROM helpdesk.demo_activity") == 0


async def test_recount_is_equal_again_and_again_while_others_write(helpdesk: str) -> None:
    async with writing(helpdesk):
        for _ in range(25):
            result = await recount(helpdesk, 1, Counted(helpdesk).read)
            assert result.verdict is Verdict.EQUAL
            assert result.truth == result.tallies


async def test_recount_finds_one_wrong_number(helpdesk: str) -> None:
    result = await recount(helpdesk, 1, Counted(helpdesk, wrong=1).read)
    assert result.verdict is Verdict.DRIFT
    assert result.tallies["open_by_tag"]["vip"] == result.truth["open_by_tag"]["vip"] + 1


async def test_recount_does_not_judge_tallies_that_are_behind(helpdesk: str) -> None:
    result = await recount(helpdesk, 1, Counted(helpdesk, wrong=1, version=Lsn(1)).read)
    assert result.verdict is Verdict.PENDING


async def test_recount_gives_up_on_a_long_transaction_instead_of_blocking_writers(helpdesk: str) -> None:
    async with await psycopg.AsyncConnection.connect(helpdesk) as holder:
        await holder.execute("UPDATE helpdesk.conversations SET subject = 'held' WHERE id = 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await recount(helpdesk, 1, Counted(helpdesk).read)
        async with asyncio.timeout(60), await psycopg.AsyncConnection.connect(helpdesk) as other:
            await other.execute("UPDATE helpdesk.conversations SET subject = 'free' WHERE id = 2")
