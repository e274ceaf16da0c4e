"""The side connection: looks at the server about once a second and writes the heartbeat.

The streaming connection can't be asked anything while it streams. Lost connections are opened again at the next call.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from cdc_counter.cancellation import within
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.errors import CdcCounterError, UnreachableError
from cdc_counter.postgres.connection import connect, translated_errors
from cdc_counter.postgres.facts import with_publication_mark
from cdc_counter.resources import sql_blocks

_PATIENCE: Final = 5.0
"""Seconds for one look, which takes milliseconds. A server that is frozen, or behind a flow that somebody dropped,
would be waited for until TCP gives up, or for ever."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look: what new snapshots see, where the WAL ends, what the slot makes the server keep (None: no slot)."""

    snapshot: Snapshot
    flush_lsn: Lsn
    retained_wal: int | None
    wal_status: str | None
    confirmed: Lsn | None
    active: bool
    inactive_seconds: float
    outbox_exists: bool
    publication_mark: str


class Observer:
    """One lazily opened connection; concurrent calls take turns."""

    def __init__(self, conninfo: str, schema: str, slot: str, publication: str) -> None:
        self._conninfo = conninfo
        self._slot = slot
        self._schema = schema
        self._publication = publication
        self._heartbeat = sql.SQL("INSERT INTO {} (xid, deltas) VALUES (pg_current_xact_id(), '[]')").format(
            sql.Identifier(schema, "outbox")
        )
        self._connection: AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()

    async def observe(self) -> Observation:
        """Look; raises UnreachableError, StoppingError when the server is being stopped."""
        async with self._session("observing the server") as connection:
            try:
                return await within(_PATIENCE, observe(connection, self._schema, self._slot, self._publication))
            except TimeoutError as error:
                raise UnreachableError(f"postgres: observing the server: {error}") from error

    async def confirmed_flush(self) -> Lsn | None:
        """Return where the slot stands; None when it is gone."""
        async with self._session("reading the slot's position") as connection:
            row = await _one(connection, sql.SQL(sql_blocks("replication")["confirmed_flush"]), self._slot)
        return None if row.get("lsn") is None else Lsn.parse(row["lsn"])

    async def heartbeat(self) -> None:
        """Commit an empty outbox row: it takes the real path, and flushes the WAL before it."""
        async with self._session("writing the heartbeat") as connection:
            await connection.execute(self._heartbeat)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @asynccontextmanager
    async def _session(self, what: str) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._turn:
            if self._connection is None or self._connection.closed:
                self._connection = await connect(self._conninfo)
            try:
                with translated_errors(what):
                    yield self._connection
            except (CdcCounterError, asyncio.CancelledError):
                await self.close()
                raise


async def observe(connection: AsyncConnection[Any], schema: str, slot: str, publication: str) -> Observation:
    """Look over a connection of the caller's."""
    asked = with_publication_mark(sql_blocks("replication")["observe"])
    row = await _one(connection, asked, slot, outbox=f"{schema}.outbox", publication=publication)
    return Observation(
        snapshot=Snapshot.parse(row["snapshot"]),
        flush_lsn=Lsn.parse(row["flush_lsn"]),
        retained_wal=row["retained_wal"],
        wal_status=row["wal_status"],
        confirmed=None if row["confirmed"] is None else Lsn.parse(row["confirmed"]),
        active=row["active"],
        inactive_seconds=row["inactive_seconds"],
        outbox_exists=row["outbox_exists"],
        publication_mark=row["publication_mark"] or "",
    )


async def _one(
    connection: AsyncConnection[Any], asked: sql.SQL | sql.Composed, slot: str, **more: str
) -> dict[str, Any]:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(asked, {"slot": slot, **more})
    return await cursor.fetchone() or {}
