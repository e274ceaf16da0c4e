"""A database with an outbox, its publication and a slot, and streams of it."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import AsyncConnection

from cdc_counter.core.frames import PrimaryKeepalive, parse_frame
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.pgoutput import Message, parse_message
from cdc_counter.postgres.connection import connected, full_conninfo
from cdc_counter.postgres.slot import create_slot
from cdc_counter.postgres.stream import ReplicationStream

SCHEMA = "cdc_counter"
PUBLICATION = "cdc_pub"
OUTBOX = f"{SCHEMA}.outbox"
ROW = f"INSERT INTO {OUTBOX} (part, xid, deltas) VALUES (0, pg_current_xact_id(), %s)"

_SET_UP = (
    f"CREATE SCHEMA {SCHEMA}",
    f"CREATE TABLE {OUTBOX} (part smallint, xid xid8, deltas text) PARTITION BY LIST (part)",
    f"CREATE TABLE {OUTBOX}_0 PARTITION OF {OUTBOX} FOR VALUES IN (0)",
    f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {OUTBOX} WITH (publish = 'insert', publish_via_partition_root = true)",
    "CREATE TABLE public.other (id int PRIMARY KEY)",
)


@pytest.fixture
def slot(database: str) -> str:
    """Name a slot that no other database of the cluster has."""
    return f"s_{psycopg.conninfo.conninfo_to_dict(database)['dbname']}"


@pytest.fixture
async def outbox(database: str, slot: str) -> AsyncIterator[AsyncConnection]:
    """Install outbox, publication and slot; gives a connection to write with."""
    async with connected(database) as connection:
        for statement in _SET_UP:
            await connection.execute(statement)
        await create_slot(connection, slot, failover=False)
        yield connection


async def open_stream(database: str, slot: str) -> ReplicationStream:
    """Open a stream as the product does."""
    return await ReplicationStream.open(
        full_conninfo(database, purpose="stream", connect_timeout=10),
        slot=slot,
        publication=PUBLICATION,
        outbox=OUTBOX,
    )


@pytest.fixture
async def stream(database: str, slot: str, outbox: AsyncConnection) -> AsyncIterator[ReplicationStream]:
    opened = await open_stream(database, slot)
    yield opened
    await opened.close()


async def wal_end(connection: AsyncConnection) -> Lsn:
    """Return the end of the WAL that is flushed."""
    row = await (await connection.execute("SELECT pg_current_wal_flush_lsn()::text")).fetchone()
    assert row is not None
    return Lsn.parse(row[0])


async def confirmed_flush(connection: AsyncConnection, slot: str) -> Lsn:
    cursor = await connection.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [slot]
    )
    row = await cursor.fetchone()
    assert row is not None
    return Lsn.parse(row[0])


async def messages(stream: ReplicationStream) -> AsyncIterator[Message]:
    """Give the messages of a started stream, without an end."""
    while True:
        for payload in await stream.read(100):
            frame = parse_frame(payload)
            if not isinstance(frame, PrimaryKeepalive):
                yield parse_message(frame.payload)
