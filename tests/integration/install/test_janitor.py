"""Pruning: old partitions become empty, held ones wait for another time, writers never do."""

from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from cdc_counter.postgres.janitor import leaf_sizes, prune
from tests.integration.capture.helpdesk import SCHEMA, TOTAL, install


@pytest.fixture
async def full(session: AsyncConnection[Any], desk: str) -> int:
    """Fill every partition and give the number of the current one."""
    await install(desk, [TOTAL])
    for part in range(8):
        await session.execute(f"INSERT INTO cdc_counter.outbox VALUES ({part}, '3', '[]')")
    row = await (await session.execute("SELECT (extract(epoch FROM clock_timestamp())::bigint / 3600) % 8")).fetchone()
    assert row is not None
    return int(row[0])


async def _filled(session: AsyncConnection[Any]) -> set[int]:
    rows = await (await session.execute("SELECT DISTINCT part FROM cdc_counter.outbox")).fetchall()
    return {part for (part,) in rows}


async def test_only_partitions_past_their_turn_are_emptied(session: AsyncConnection[Any], full: int) -> None:
    report = await prune(session, SCHEMA, keep_hours=2)
    kept = {(full - age) % 8 for age in range(3)}
    # in the last minutes of an hour the next partition is left alone
    assert await _filled(session) - {(full + 1) % 8} == kept
    assert {f"outbox_{part}" for part in set(range(8)) - await _filled(session)} == set(report.truncated)
    assert (await prune(session, SCHEMA, keep_hours=2)).truncated == ()


async def test_partition_held_by_a_transaction_is_skipped(session: AsyncConnection[Any], desk: str, full: int) -> None:
    held = (full - 4) % 8
    with psycopg.connect(desk) as other:
        other.execute(f"INSERT INTO cdc_counter.outbox VALUES ({held}, '3', '[]')")
        report = await prune(session, SCHEMA, keep_hours=3)
        assert report.skipped == (f"outbox_{held}",)
        assert (full - 5) % 8 not in await _filled(session)
    assert f"outbox_{held}" in (await prune(session, SCHEMA, keep_hours=3)).truncated


async def test_sizes_are_reported_per_partition(session: AsyncConnection[Any], full: int) -> None:
    sizes = await leaf_sizes(session, SCHEMA)
    assert [size.name for size in sizes] == [f"outbox_{part}" for part in range(8)]
    assert all(size.bytes > 0 for size in sizes)


async def test_ages_that_can_not_be_kept_are_refused(session: AsyncConnection[Any]) -> None:
    for hours in (0, 7):
        with pytest.raises(ValueError, match="keep_hours"):
            await prune(session, SCHEMA, keep_hours=hours)
