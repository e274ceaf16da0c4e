"""The truth in one snapshot: what the counted tables hold at one commit position.

An ordinary snapshot in a REPEATABLE READ transaction: no slot, no privilege, no waiting for anybody's transaction,
and nobody waits for it, but for TRUNCATE and rewriting ALTERs, which are not MVCC-safe and are kept away by ACCESS
SHARE locks taken before the snapshot. Who waits for these has a queue of readers behind him, so the recount gives way.
The view is locked, too: its definition is not part of the snapshot. Row-level security is off: a count of what one role
may see is an error here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection, sql

from cdc_counter.cancellation import end, honour_cancellation
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.errors import BusyError, CdcCounterError, UnreachableError
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.settings import pinned_settings
from cdc_counter.resources import sql_blocks

_LOCK_TIMEOUT: Final = "2s"
"""ACCESS SHARE conflicts with ACCESS EXCLUSIVE only: waiting longer than this would queue readers behind us."""

_WATCH_AFTER: Final = 0.5
_WATCH_PAUSE: Final = 0.25
"""Seconds: whoever waits for the table waits no longer than this for us to see it."""

TruthRow = tuple[str, str, int]
"""Scope, bucket, value."""


@dataclass(frozen=True, slots=True)
class Recount:
    """An open snapshot. Every commit that it sees ends at or before `lsn`. The planner's estimate is for people.

    `counter_id` is what the counter's deltas carry as of the snapshot: with another one it counts something else.
    """

    connection: AsyncConnection[Any]
    schema: str
    counter_id: int
    snapshot: Snapshot
    lsn: Lsn
    estimated_rows: int

    async def truth(self, counter: str, chunk: int, scope: str | None = None) -> AsyncIterator[list[TruthRow]]:
        """Yield a counter's non-zero values, of one scope if named, in lists of up to `chunk`; the database counts."""
        query = sql.SQL("COPY (SELECT scope, bucket, value FROM {} WHERE value <> 0{}) TO STDOUT").format(
            sql.Identifier(self.schema, counter),
            sql.SQL("") if scope is None else sql.SQL(" AND scope = {}").format(sql.Literal(scope)),
        )
        rows: list[TruthRow] = []
        with translated_errors(f"counting {counter}"):
            async with self.connection.cursor() as cursor, cursor.copy(query) as copy:
                copy.set_types(["text", "text", "text"])
                async for in_scope, bucket, value in copy.rows():
                    rows.append((in_scope, bucket, _integer(value, counter)))
                    if len(rows) == chunk:
                        yield rows
                        rows = []
        if rows:
            yield rows


@dataclass(frozen=True, slots=True)
class Recounter:
    """Takes snapshots of counted tables."""

    conninfo: str
    schema: str

    @asynccontextmanager
    async def open(self, counter: str) -> AsyncIterator[Recount]:
        """Take a snapshot for recounting one counter; raises CdcCounterError when it is not installed."""
        async with connected(self.conninfo) as connection:
            with translated_errors("taking a snapshot"):
                recount = await self._snapshot(connection, counter)
            waiting: list[int] = []
            watch = asyncio.create_task(self._give_way(connection.info.backend_pid, waiting), name="recount's watch")
            try:
                yield recount
            except UnreachableError as error:
                if waiting:
                    raise BusyError(
                        f"the recount of {counter} gave way to pid {waiting[0]}, which waits for its table",
                        hint="wait until that session is done",
                    ) from error
                raise
            finally:
                await end([watch])

    async def _give_way(self, pid: int, waiting: list[int]) -> None:
        """End the recounting backend as soon as somebody waits for it; short recounts are not watched."""
        await asyncio.sleep(_WATCH_AFTER)
        query = sql_blocks("replication")["waiters"].encode()
        with contextlib.suppress(CdcCounterError):
            async with connected(self.conninfo) as connection:
                while not waiting:
                    with translated_errors("looking for waiters"):
                        cursor = await connection.execute(query, {"pid": pid})
                        waiting += [waiter for (waiter,) in await cursor.fetchall()]
                        honour_cancellation()
                        if waiting:
                            # Whatever it does: in the middle of a count, or between two statements.
                            await connection.execute("SELECT pg_terminate_backend(%s)", [pid])
                    await asyncio.sleep(_WATCH_PAUSE)

    async def _snapshot(self, connection: AsyncConnection[Any], counter: str) -> Recount:
        blocks = sql_blocks("replication")
        # The keys are computed under the same settings as in the capture functions.
        for name, value in {**pinned_settings(), "lock_timeout": _LOCK_TIMEOUT, "row_security": "off"}.items():
            await connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        counted_table = sql.SQL(blocks["counted_table"]).format(counters=sql.Identifier(self.schema, "counters"))
        schema, name, *_ = await _counted_table(connection, counted_table, counter)
        await connection.execute(sql.SQL(blocks["begin_recount"]))
        await connection.execute(
            sql.SQL("LOCK TABLE {}, {} IN ACCESS SHARE MODE").format(
                sql.Identifier(schema, name), sql.Identifier(self.schema, counter)
            )
        )
        cursor = await connection.execute(sql.SQL(blocks["snapshot"]))
        snapshot, lsn = await cursor.fetchone() or ("", "")
        *_, estimated_rows, counter_id = await _counted_table(connection, counted_table, counter)
        return Recount(connection, self.schema, counter_id, Snapshot.parse(snapshot), Lsn.parse(lsn), estimated_rows)


async def _counted_table(connection: AsyncConnection[Any], query: sql.Composed, counter: str) -> tuple[Any, ...]:
    cursor = await connection.execute(query, [counter])
    table: tuple[Any, ...] | None = await cursor.fetchone()
    if table is None:
        raise CdcCounterError(f"counter {counter!r} is not installed, or its table is gone")
    return table


def _integer(value: str, counter: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        # A NaN among the summed values: there is no number to show until it is gone.
        raise CdcCounterError(
            f"the truth of {counter} is {value!r}, which is no integer", hint="correct the rows whose value is NaN"
        ) from error
