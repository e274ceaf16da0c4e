"""The recount: what its snapshot sees, and where in the WAL that lies."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import psycopg
import pytest
from psycopg import AsyncConnection

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.pgoutput import Commit, Insert
from cdc_counter.errors import BusyError, CdcCounterError
from cdc_counter.postgres.connection import connect, connected
from cdc_counter.postgres.install import execute, plan_objects
from cdc_counter.postgres.recount import Recounter
from cdc_counter.postgres.slot import create_slot
from cdc_counter.postgres.stream import ReplicationStream
from tests.integration.stream.conftest import PUBLICATION, SCHEMA, confirmed_flush, messages, open_stream, wal_end

COUNTER = CounterDefinition("by_kind", "public.things", by=("kind",))


@pytest.fixture
async def counted(database: str, slot: str) -> AsyncIterator[AsyncConnection]:
    """Install one counter on a table, and the slot."""
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE public.things (id bigserial PRIMARY KEY, kind int)")
        plan = await plan_objects(connection, SCHEMA, PUBLICATION, [COUNTER])
        await execute(plan, lambda: connect(database), lambda _: None)
        await create_slot(connection, slot, failover=False)
        yield connection


@dataclass(frozen=True, slots=True)
class Streamed:
    """A transaction as the stream has it."""

    xid: int
    end_lsn: Lsn
    deltas: Counter[str]


async def write(database: str, seed: int, stop: asyncio.Event) -> None:
    """Insert and delete in transactions, some of which are rolled back, until `stop`."""
    choice = random.Random(seed)
    insert = "INSERT INTO things (kind) SELECT n %% 3 FROM generate_series(1, %s) n"
    delete = "DELETE FROM things WHERE id %% 7 = %s AND kind = %s"
    async with connected(database) as connection:
        while not stop.is_set():
            async with connection.transaction(force_rollback=choice.random() < 0.2):
                await connection.execute(insert, [choice.randint(1, 9)])
                await connection.execute(delete, [seed, choice.randint(0, 2)])


async def streamed_until(stream: ReplicationStream, end: Lsn) -> list[Streamed]:
    """Read whole transactions until one ends behind `end`."""
    transactions: list[Streamed] = []
    rows: list[Insert] = []
    async with asyncio.timeout(60):
        async for message in messages(stream):
            if isinstance(message, Insert):
                rows.append(message)
            elif isinstance(message, Commit):
                deltas: Counter[str] = Counter()
                for row in rows:
                    for _, _, bucket, delta in orjson.loads(row.values[2] or b""):
                        deltas[bucket] += delta
                (xid,) = {int(row.values[1] or b"0") for row in rows}
                transactions.append(Streamed(xid, message.end_lsn, deltas))
                rows = []
                if message.end_lsn > end:
                    break
    return transactions


async def test_what_a_recount_counts_is_what_the_transactions_it_sees_changed(
    database: str, counted: AsyncConnection, slot: str
) -> None:
    """Under four writers; and every transaction that it sees ends at or before its position."""
    recounter = Recounter(database, SCHEMA)
    stop = asyncio.Event()
    writers = [asyncio.create_task(write(database, seed, stop)) for seed in range(4)]
    recounts = []
    for _ in range(25):
        async with recounter.open(COUNTER.name) as recount:
            values = {bucket: value async for rows in recount.truth(COUNTER.name, 2) for _, bucket, value in rows}
            recounts.append((recount.snapshot, recount.lsn, values))
    stop.set()
    await asyncio.gather(*writers)

    stream = await open_stream(database, slot)
    end = await wal_end(counted)
    await counted.execute("INSERT INTO things (kind) VALUES (99)")
    await stream.start(await confirmed_flush(counted, slot))
    transactions = await streamed_until(stream, end)
    await stream.close()

    assert len(transactions) > len(recounts)
    for snapshot, lsn, values in recounts:
        seen = [transaction for transaction in transactions if snapshot.sees(transaction.xid)]
        assert all(transaction.end_lsn <= lsn for transaction in seen)
        sums: Counter[str] = Counter()
        for transaction in seen:
            sums.update(transaction.deltas)
        assert {bucket: value for bucket, value in sums.items() if value} == values


async def test_truncate_waits_while_a_recount_is_open(database: str, counted: AsyncConnection) -> None:
    """A table truncated after the snapshot would be counted as empty."""
    await counted.execute("INSERT INTO things (kind) VALUES (1), (1)")
    await counted.execute("SET lock_timeout = '100ms'")
    async with Recounter(database, SCHEMA).open(COUNTER.name) as recount:
        for statement in ("TRUNCATE things", "ALTER TABLE things ALTER COLUMN id TYPE numeric"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await counted.execute(statement.encode())
        await counted.execute("INSERT INTO things (kind) VALUES (1)")
        assert [rows async for rows in recount.truth(COUNTER.name, 10)] == [[("-", "1", 2)]]
    await counted.execute("TRUNCATE things")


async def test_a_counter_that_is_not_installed_can_not_be_recounted(database: str, counted: AsyncConnection) -> None:
    with pytest.raises(CdcCounterError, match="counter 'nothing' is not installed"):
        async with Recounter(database, SCHEMA).open("nothing"):
            pass


async def test_a_recount_gives_way_to_whoever_waits_for_its_table(database: str, counted: AsyncConnection) -> None:
    """A TRUNCATE that waits has every writer queue behind it."""
    await counted.execute("INSERT INTO things (kind) VALUES (1), (1)")

    async def recount_beside_a_truncate() -> None:
        async with Recounter(database, SCHEMA).open(COUNTER.name) as recount:
            await asyncio.wait_for(counted.execute("TRUNCATE things"), 90)
            async for _ in recount.truth(COUNTER.name, 10):
                pass

    with pytest.raises(BusyError, match=f"gave way to pid {counted.info.backend_pid}"):
        await recount_beside_a_truncate()


async def test_a_recount_says_which_counter_it_counts(database: str, counted: AsyncConnection) -> None:
    """The id changes in the transaction that changes the meaning, and the view can't be replaced meanwhile."""
    await counted.execute(f"UPDATE {SCHEMA}.counters SET id = 77 WHERE name = '{COUNTER.name}'".encode())
    async with Recounter(database, SCHEMA).open(COUNTER.name) as recount:
        assert recount.counter_id == 77
        await counted.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await counted.execute(f"DROP VIEW {SCHEMA}.{COUNTER.name}".encode())


async def test_a_recount_goes_on_while_others_wait_for_each_other(database: str, counted: AsyncConnection) -> None:
    """A row that two sessions want is nobody's wait for us."""
    await counted.execute("INSERT INTO things (kind) VALUES (1)")
    await counted.execute("CREATE TABLE elsewhere AS SELECT 1 AS n")
    async with (
        await AsyncConnection.connect(database) as holder,
        await AsyncConnection.connect(database) as waiter,
        Recounter(database, SCHEMA).open(COUNTER.name) as recount,
    ):
        await holder.execute("UPDATE elsewhere SET n = 2")
        waiting = asyncio.create_task(waiter.execute("UPDATE elsewhere SET n = 3"))
        # Two looks for waiters, and more.
        await asyncio.sleep(1.5)
        assert not waiting.done()
        assert [rows async for rows in recount.truth(COUNTER.name, 10)] == [[("-", "1", 1)]]
        await holder.rollback()
        await waiting
