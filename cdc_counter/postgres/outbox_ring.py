"""The outbox is a ring of partitions, one per hour in turn; how a firing gets its deltas into it.

Pure. A firing never waits for who holds the outbox, and what it can't put there it says in a message in the WAL.
"""

from collections.abc import Iterable
from typing import Final

from psycopg import sql

from cdc_counter.postgres.rendering import identifier_text, literal_text, qualified, raw, render

LEAVES: Final = 8
"""Partitions of the outbox, one per hour in turn."""

CHUNK: Final = 1_000
"""Most entries in one outbox row: the unit by which the consumer cuts a huge transaction, about 10 ms of Redis."""


def leaf_name(part: int | str) -> str:
    """Return the name of one partition of the outbox."""
    return f"outbox_{part}"


def current_part() -> sql.SQL:
    """Return the expression for the partition whose hour it is."""
    return raw(render("schema", "current_part", leaves=raw(str(LEAVES))))


def store_variables() -> sql.SQL:
    """Return the declarations that `store_statements` needs."""
    return raw(render("capture", "store_variables"))


def enter_statements(schema: str) -> str:
    """Return what locks the partition `cdc_part` of the outbox for inserting, or raises if that can't be had at once.

    Each lock is a statement of its own, found in three steps: to make one up costs more.
    """
    return _enter_one_of(schema, range(LEAVES))


def _enter_one_of(schema: str, parts: range) -> str:
    if len(parts) == 1:
        outbox, leaf = (qualified(schema, name) for name in ("outbox", leaf_name(parts[0])))
        return render("capture", "lock_outbox", outbox=outbox, leaf=leaf).strip() + ";"
    middle = len(parts) // 2
    lower, upper = (_enter_one_of(schema, some) for some in (parts[:middle], parts[middle:]))
    return render("capture", "enter_leaf", part=raw(str(parts[middle])), lower=raw(lower), upper=raw(upper))


def store_statements(schema: str, counters: Iterable[int]) -> sql.SQL:
    """Return the part of a capture function that puts `cdc_entries` into the outbox, if there are any."""
    outbox = identifier_text(schema, "outbox")
    # format() puts the partition in, so percent signs of ours are doubled.
    lock = render(
        "capture",
        "lock_outbox",
        outbox=raw(outbox.replace("%", "%%")),
        leaf=qualified(schema.replace("%", "%%"), leaf_name("%s")),
    )
    return raw(
        render(
            "capture",
            "store",
            part=current_part(),
            leaves=raw(str(LEAVES)),
            lock=raw(literal_text(lock)),
            outbox=raw(outbox),
            outbox_name=raw(literal_text(outbox)),
            ids=raw(",".join(map(str, counters))),
            chunk=raw(str(CHUNK)),
        )
    )
