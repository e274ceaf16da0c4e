"""Counts the helpdesk's table by hand and compares the tallies with it, at one moment.

Two numbers read at two moments prove nothing while others write. Here the table holds still for the few milliseconds
that a recount takes: a SHARE lock waits for the writers of this moment and keeps new ones out. Under it there is one
right answer, and the tallies must reach it. (A product can't stop its writers; a demo can, and the argument needs no
theory.)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import psycopg

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import CounterState, Reading
from cdc_counter.resources import sql_blocks

COUNTERS = ("open_by_channel", "open_by_teammate", "open_by_tag", "open_order_value")

PATIENCE_SECONDS = 0.5
"""How long writers are kept out at most while the last commits before the lock are applied: usually 20 ms."""

_POLL_SECONDS = 0.002

Values = Mapping[str, Mapping[str, int]]
"""Counter to bucket to number."""


class Verdict(StrEnum):
    """What came of a comparison."""

    EQUAL = "equal"
    DRIFT = "drift"
    PENDING = "pending"
    """The tallies had not reached the table's position in time: no daemon at the moment, or a counter still seeding."""


@dataclass(frozen=True, slots=True)
class Recount:
    """The truth of one account, and the tallies at the same position. `lsn` is where all of it was committed."""

    verdict: Verdict
    lsn: Lsn
    truth: Values
    tallies: Values
    seconds: float


async def recount(dsn: str, account: int, read: Callable[[str, str], Awaitable[Reading]]) -> Recount:
    """Compare every number of one account; `read` reads the tallies of a counter and scope.

    Raises psycopg.errors.LockNotAvailable when somebody holds the table's rows for long.
    """
    started = time.monotonic()
    blocks = sql_blocks("demo")
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute("SET LOCAL lock_timeout = '300ms'")
        await connection.execute(blocks["hold_still"].encode())
        rows = await (await connection.execute(blocks["recount"].encode(), {"account": account})).fetchall()
        # Under the lock every commit that counts has been flushed, so this is an upper bound of their end
        # LSNs.
        position = await (await connection.execute("SELECT pg_current_wal_flush_lsn()::text")).fetchone()
        lsn = Lsn.parse(position[0] if position else "")
        truth = arrange(rows)
        verdict, tallies = await _compare(truth, lsn, str(account), read)
    return Recount(verdict, lsn, truth, tallies, time.monotonic() - started)


def arrange(rows: list[tuple[str, str, int]]) -> Values:
    """Return rows of (counter, bucket, number) by counter, every counter present."""
    values: dict[str, dict[str, int]] = {counter: {} for counter in COUNTERS}
    for counter, bucket, number in rows:
        values[counter][bucket] = number
    return values


def judge(truth: Values, readings: Mapping[str, Reading], lsn: Lsn) -> Verdict:
    """Decide: equal is equal; different counts as drift only of live counters that include everything up to `lsn`."""
    if all(readings[counter].values == truth[counter] for counter in truth):
        return Verdict.EQUAL
    final = all(reading.version >= lsn and reading.state is CounterState.LIVE for reading in readings.values())
    return Verdict.DRIFT if final else Verdict.PENDING


async def _compare(
    truth: Values, lsn: Lsn, scope: str, read: Callable[[str, str], Awaitable[Reading]]
) -> tuple[Verdict, Values]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        readings = {counter: await read(counter, scope) for counter in truth}
        verdict = judge(truth, readings, lsn)
        if verdict is not Verdict.PENDING or time.monotonic() > deadline:
            return verdict, {counter: reading.values for counter, reading in readings.items()}
        await asyncio.sleep(_POLL_SECONDS)
