"""Empties old partitions of the outbox: no dead tuples, no waiting, and no change that anybody still needs.

The slot reads the WAL, never this table: rows are kept only for the ledger. A partition is emptied long after its hour
and not shortly before its next one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_counter.postgres.outbox_ring import LEAVES, leaf_name
from cdc_counter.postgres.rendering import block, identifier_text, literal_text, qualified, raw, render
from cdc_counter.postgres.steps import LOCK_TIMEOUT_MS

LONGEST_KEEP: Final = 6
"""Hours. Of 8 partitions one is being written and one is about to be."""

_HOUR: Final = 3600
_MARGIN: Final = 300
"""Seconds before a partition's next turn in which it is left alone, so that no writer meets its truncation."""


@dataclass(frozen=True, slots=True)
class LeafSize:
    """One partition of the outbox. `rows` is the planner's estimate, `bytes` exact."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What one pruning did. `skipped` partitions were held by a transaction and are tried again next time."""

    truncated: tuple[str, ...]
    skipped: tuple[str, ...]


def prunable_parts(now: float, keep_hours: int) -> Iterator[int]:
    """Yield the partitions whose rows are all older than `keep_hours`. `now` is unix seconds of the database."""
    hour = int(now // _HOUR)
    until_next = _HOUR - now % _HOUR
    for age in range(keep_hours + 1, LEAVES):
        is_next = age == LEAVES - 1
        if not (is_next and until_next <= _MARGIN):
            yield (hour - age) % LEAVES


async def prune(connection: AsyncConnection[Any], schema: str, keep_hours: int = 2) -> PruneReport:
    """Truncate partitions of the outbox that are older than `keep_hours` (1 to 6). Raises ValueError otherwise."""
    if not 1 <= keep_hours <= LONGEST_KEEP:
        raise ValueError(f"keep_hours must be 1 to {LONGEST_KEEP}, not {keep_hours}")
    cursor = await connection.execute(block("janitor", "clock"))
    row = await cursor.fetchone()
    now = float(row[0]) if row else 0.0
    truncated, skipped = [], []
    for part in prunable_parts(now, keep_hours):
        name = leaf_name(part)
        try:
            if await _empty(connection, schema, name):
                truncated.append(name)
        except psycopg.errors.LockNotAvailable:
            skipped.append(name)
    return PruneReport(tuple(truncated), tuple(skipped))


async def leaf_sizes(connection: AsyncConnection[Any], schema: str) -> list[LeafSize]:
    """Return the size of each partition of the outbox, for metrics; none when nothing is installed."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(block("janitor", "leaf_sizes"), {"outbox": identifier_text(schema, "outbox")})
        return [LeafSize(**row) for row in await cursor.fetchall()]


async def _empty(connection: AsyncConnection[Any], schema: str, name: str) -> bool:
    """Truncate a partition that takes space; raises LockNotAvailable when somebody holds it."""
    leaf = qualified(schema, name)
    async with connection.transaction():
        timeout = raw(literal_text(f"{LOCK_TIMEOUT_MS}ms"))
        await connection.execute(raw(render("schema", "set_lock_timeout", timeout=timeout)))
        text = raw(literal_text(leaf.as_string(None)))
        cursor = await connection.execute(block("janitor", "leaf_has_pages").format(leaf=text))
        row = await cursor.fetchone()
        if row is None or not row[0]:
            return False
        await connection.execute(block("janitor", "truncate_leaf").format(leaf=leaf))
        return True
