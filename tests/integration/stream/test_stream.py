"""The streaming connection: what comes, what is confirmed, and what ends it."""

import asyncio
from dataclasses import replace

import pytest
from psycopg import AsyncConnection

from cdc_counter.core.frames import StandbyStatusUpdate
from cdc_counter.core.lifecycle import PublicationFault
from cdc_counter.core.lsn import ZERO, Lsn
from cdc_counter.core.pgoutput import Commit, Insert
from cdc_counter.errors import BusyError, ReseedNeededError, UnreachableError
from cdc_counter.postgres.slot import drop_slot, find_slot
from cdc_counter.postgres.stream import ReplicationStream
from tests.integration.stream.conftest import (
    OUTBOX,
    PUBLICATION,
    ROW,
    confirmed_flush,
    messages,
    open_stream,
    wal_end,
)
from tests.rig.eventually import eventually

_DEADLINE = 90.0


async def next_of(stream: ReplicationStream, count: int = 1) -> tuple[list[Insert], Lsn]:
    """Read whole transactions until `count` rows came; gives them and the last commit's end."""
    rows: list[Insert] = []
    async with asyncio.timeout(_DEADLINE):
        async for message in messages(stream):
            if isinstance(message, Insert):
                rows.append(message)
            elif isinstance(message, Commit) and len(rows) >= count:
                return rows, message.end_lsn
    raise AssertionError("the stream has no end")


async def test_what_is_committed_is_streamed_and_what_is_told_is_confirmed(
    outbox: AsyncConnection, stream: ReplicationStream, database: str, slot: str
) -> None:
    await stream.start(await confirmed_flush(outbox, slot))
    for number in range(3):
        await outbox.execute(ROW, [f"[{number}]"])
    rows, end = await next_of(stream, 3)
    assert [row.values[2] for row in rows] == [b"[0]", b"[1]", b"[2]"]
    stream.send(StandbyStatusUpdate(write=end, flush=end, apply=end), now=1e9)
    await stream.finish()
    assert await confirmed_flush(outbox, slot) == end

    again = await open_stream(database, slot)
    await outbox.execute(ROW, ["[3]"])
    await again.start(end)
    rows, _ = await next_of(again)
    assert [row.values[2] for row in rows] == [b"[3]"], "nothing twice"
    await again.close()


async def test_what_is_not_confirmed_comes_again(
    outbox: AsyncConnection, stream: ReplicationStream, database: str, slot: str
) -> None:
    start = await confirmed_flush(outbox, slot)
    await stream.start(start)
    await outbox.execute(ROW, ["[1]"])
    first = await next_of(stream)
    await stream.close()
    again = await open_stream(database, slot)

    async def restarted() -> bool:
        try:
            await again.start(start)
        except BusyError:  # the server has not noticed yet that the first one left
            return False
        return True

    await eventually(restarted, "the slot is free")
    assert await next_of(again) == first
    await again.close()


async def test_keepalives_move_an_idle_stream_on(outbox: AsyncConnection, stream: ReplicationStream, slot: str) -> None:
    await stream.start(await confirmed_flush(outbox, slot))
    await outbox.execute("INSERT INTO public.other VALUES (1)")
    end = await wal_end(outbox)
    stream.send(StandbyStatusUpdate(write=ZERO, flush=ZERO, apply=ZERO, reply_requested=True), now=1e9)
    async with asyncio.timeout(_DEADLINE):
        while True:
            last = (await stream.read(10))[-1]
            if last[:1] == b"k" and int.from_bytes(last[1:9]) >= end:
                break
            stream.send(StandbyStatusUpdate(write=ZERO, flush=ZERO, apply=ZERO, reply_requested=True), now=1e9)


async def test_a_slot_that_somebody_else_streams_is_busy(
    outbox: AsyncConnection, stream: ReplicationStream, database: str, slot: str
) -> None:
    start = await confirmed_flush(outbox, slot)
    await stream.start(start)
    second = await open_stream(database, slot)
    facts = await second.facts(None)
    assert facts.slot is not None
    assert facts.slot.active_pid is not None
    with pytest.raises(BusyError, match=rf'"{slot}" is active for PID {facts.slot.active_pid}'):
        await second.start(start)
    await second.close()


async def test_a_slot_that_is_gone_is_a_fact_and_can_not_be_started(
    outbox: AsyncConnection, stream: ReplicationStream, slot: str
) -> None:
    async def nobody_streams(pid: int) -> None:
        raise AssertionError(pid)

    assert await drop_slot(outbox, slot, nobody_streams)
    assert not await drop_slot(outbox, slot, nobody_streams)
    assert await find_slot(outbox, slot) is None
    assert (await stream.facts(None)).slot is None
    with pytest.raises(UnreachableError, match=f'"{slot}" does not exist'):
        await stream.start(ZERO)


async def test_facts_tell_who_the_server_is(outbox: AsyncConnection, stream: ReplicationStream, slot: str) -> None:
    facts = await stream.facts(None)
    row = await (
        await outbox.execute(
            "SELECT system_identifier::text, (SELECT oid::int FROM pg_database WHERE datname = current_database())"
            "  FROM pg_control_system()"
        )
    ).fetchone()
    assert (facts.system_identifier, facts.database_oid) == row
    assert facts.timeline == 1
    assert facts.publication is None
    assert facts.slot is not None
    found = await find_slot(outbox, slot)
    assert found is not None
    # What goes on by itself was asked at two moments.
    assert replace(facts.slot, retained=found.retained, inactive_seconds=found.inactive_seconds) == found
    assert (facts.slot.plugin, facts.slot.lost, facts.slot.active_pid) == ("pgoutput", None, None)
    assert facts.slot.confirmed_flush is not None
    assert facts.slot.confirmed_flush <= facts.flush_lsn


ALTERATIONS = {
    f"DROP PUBLICATION {PUBLICATION}": PublicationFault.MISSING,
    f"ALTER PUBLICATION {PUBLICATION} DROP TABLE {OUTBOX}": PublicationFault.NO_OUTBOX,
    f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'update')": PublicationFault.NO_INSERT,
    f"ALTER PUBLICATION {PUBLICATION} SET (publish = '')": PublicationFault.NO_INSERT,
    f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert, truncate')": PublicationFault.MORE_THAN_INSERT,
    f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert, delete')": PublicationFault.MORE_THAN_INSERT,
    f"ALTER PUBLICATION {PUBLICATION} SET (publish_via_partition_root = false)": PublicationFault.NOT_VIA_ROOT,
    f"ALTER PUBLICATION {PUBLICATION} SET TABLE {OUTBOX} WHERE (part = 0)": PublicationFault.FILTERED,
    f"ALTER PUBLICATION {PUBLICATION} SET TABLE {OUTBOX} (xid, deltas)": PublicationFault.FILTERED,
    f"ALTER PUBLICATION {PUBLICATION} ADD TABLE public.other": PublicationFault.OTHER_TABLES,
    f"ALTER PUBLICATION {PUBLICATION} ADD TABLES IN SCHEMA public": PublicationFault.OTHER_TABLES,
    f"ALTER PUBLICATION {PUBLICATION} SET TABLE public.other": PublicationFault.NO_OUTBOX,
    f"ALTER PUBLICATION {PUBLICATION} RENAME TO elsewhere": PublicationFault.MISSING,
    f"ALTER TABLE {OUTBOX} RENAME TO away": PublicationFault.NOTHING_TO_PUBLISH,
    f"DROP TABLE {OUTBOX} CASCADE": PublicationFault.NOTHING_TO_PUBLISH,
}


@pytest.mark.parametrize("statement", ALTERATIONS)
async def test_an_altered_publication_is_noticed(
    outbox: AsyncConnection, stream: ReplicationStream, statement: str
) -> None:
    await outbox.execute(statement.encode())
    assert (await stream.facts(None)).publication is ALTERATIONS[statement]


async def test_a_publication_dropped_while_streaming_ends_the_stream(
    outbox: AsyncConnection, stream: ReplicationStream, slot: str
) -> None:
    """PostgreSQL 18 only warns, and drops the rows; older versions fail."""
    await stream.start(await confirmed_flush(outbox, slot))
    await outbox.execute(ROW, ["[1]"])
    await next_of(stream)
    await outbox.execute(f"DROP PUBLICATION {PUBLICATION}".encode())
    await outbox.execute(ROW, ["[2]"])
    with pytest.raises(ReseedNeededError, match=PUBLICATION):
        await next_of(stream)


async def test_a_publication_missing_from_the_start_ends_the_stream(
    outbox: AsyncConnection, stream: ReplicationStream, slot: str
) -> None:
    await outbox.execute(f"DROP PUBLICATION {PUBLICATION}".encode())
    await outbox.execute(ROW, ["[2]"])
    await stream.start(await confirmed_flush(outbox, slot))
    with pytest.raises(ReseedNeededError, match=PUBLICATION):
        await next_of(stream)


async def test_an_emoji_passes_whatever_encoding_the_environment_asks_for(
    outbox: AsyncConnection, database: str, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    stream = await open_stream(database, slot)
    await outbox.execute(ROW, ["🐘 größe"])
    await stream.start(await confirmed_flush(outbox, slot))
    rows, _ = await next_of(stream)
    assert rows[0].values[2] == "🐘 größe".encode()
    await stream.close()


async def test_a_stream_whose_walsender_was_ended_is_unreachable(
    outbox: AsyncConnection, stream: ReplicationStream, slot: str
) -> None:
    await stream.start(await confirmed_flush(outbox, slot))
    await outbox.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", [slot]
    )
    with pytest.raises(UnreachableError):
        await next_of(stream)
