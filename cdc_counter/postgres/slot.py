"""The replication slot's life: created without a snapshot, dropped before everything else."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from psycopg import AsyncConnection, errors, sql

from cdc_counter.core.lifecycle import SlotFacts
from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import BusyError
from cdc_counter.postgres.connection import translated_errors
from cdc_counter.postgres.facts import slot_facts
from cdc_counter.resources import sql_blocks

_FAILOVER_VERSION: Final = 170000
"""Since PostgreSQL 17 standbys can take over a logical slot."""


async def find_slot(connection: AsyncConnection, slot: str) -> SlotFacts | None:
    """Return the slot as the server sees it; None when there is none."""
    with translated_errors(f"looking up slot {slot!r}"):
        cursor = await connection.execute(_block("slot"), {"slot": slot})
        row = await cursor.fetchone()
    return None if row is None else slot_facts(row[0])


async def claim_slot(connection: AsyncConnection, slot: str) -> bool:
    """Claim the slot for this session, to replace it; False when another session has the claim."""
    with translated_errors(f"claiming slot {slot!r}"):
        cursor = await connection.execute(_block("claim_slot"), {"slot": slot})
        row = await cursor.fetchone()
    return bool(row and row[0])


async def create_slot(connection: AsyncConnection, slot: str, *, failover: bool) -> Lsn:
    """Create the slot and return its consistent point: commits from there on are streamed.

    Waits for the transactions that run now, cluster-wide; `lock_timeout` of the session bounds the wait. Raises
    BusyError when it was not enough, or somebody broke it off.
    """
    block = (
        "create_failover_slot" if failover and connection.info.server_version >= _FAILOVER_VERSION else "create_slot"
    )
    with translated_errors(f"creating slot {slot!r}"):
        try:
            cursor = await connection.execute(_block(block), {"slot": slot})
        except errors.QueryCanceled as error:
            raise BusyError(f"creating slot {slot!r} was broken off") from error
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101  # a function call without FROM-list conditions returns one row
    return Lsn.parse(row[0])


async def renew_publication(connection: AsyncConnection, publication: str) -> None:
    """Give the publication a mark that no copy of this server has, before a slot is created, if its owner asks.

    System, timeline, database and positions of a copy may fit, but the slot of one streams nothing of the other.
    """
    renew = sql.SQL(sql_blocks("schema")["renew_publication"]).format(publication=sql.Identifier(publication))
    # InternalError is "tuple concurrently updated": somebody else has just done it.
    passed_over = suppress(errors.InsufficientPrivilege, errors.UndefinedObject, errors.InternalError_)
    with translated_errors("renewing the publication"), passed_over:
        await connection.execute(renew)


async def standbys_expected(connection: AsyncConnection) -> bool:
    """Say whether the server waits for standbys that synchronize slots: then ours should be a failover slot."""
    with translated_errors("reading synchronized_standby_slots"):
        cursor = await connection.execute(_block("standbys_sync_slots"))
        row = await cursor.fetchone()
    return bool(row and row[0])


async def drop_slot(connection: AsyncConnection, slot: str, pause: Callable[[int], Awaitable[None]]) -> bool:
    """Drop the slot; False when there was none. Calls `pause(pid)` while a consumer still streams it, then retries.

    Raises BusyError when `pause` gives up by raising it.
    """
    while True:
        found = await find_slot(connection, slot)
        if found is None:
            return False
        if found.active_pid is not None:
            await pause(found.active_pid)
            continue
        try:
            await connection.execute(_block("drop_slot"), {"slot": slot})
        except errors.UndefinedObject:
            return False
        except errors.ObjectInUse as error:
            raise BusyError(f"slot {slot!r} became active while it was dropped") from error
        return True


def _block(name: str) -> sql.SQL:
    return sql.SQL(sql_blocks("replication")[name])
