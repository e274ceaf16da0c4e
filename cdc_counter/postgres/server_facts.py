"""What the readiness checks know about a PostgreSQL server, read once, without judging it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

from cdc_counter.resources import sql_blocks

OPEN_SECONDS: Final = 10.0
"""A transaction open for less than this is ordinary work that a new slot waits out."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One row of sql/readiness.sql `server`; None: this version or role can't say."""

    version_number: int
    version: str
    in_recovery: bool
    read_only: bool
    wal_level: str
    fsync: bool
    max_slot_wal_keep_size: str
    idle_slot_timeout: str | None
    plugins_listed: bool | None
    synchronized_standby_slots: str | None
    encoding: str
    database: str
    role: str
    may_create: bool
    system_identifier: str
    rds_role: str | None
    max_slots: int
    used_slots: int
    inactive_slots: Sequence[str]
    slot_exists: bool
    physical_slots: Sequence[str]
    max_senders: int
    used_senders: int
    schema_owner: str | None
    backend_pid: int

    @property
    def major(self) -> int:
        """The major version."""
        return self.version_number // 10_000

    @property
    def minor(self) -> int:
        """The minor version."""
        return self.version_number % 10_000


@dataclass(frozen=True, slots=True)
class TableFact:
    """A counted table, or a partition of one, that the role does not own or can't see all rows of."""

    name: str
    owner: str
    owned: bool
    rows_hidden: bool


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that holds a new slot up: a session's (`pid`) or a prepared one (`gid`)."""

    pid: int | None
    gid: str | None
    database: str | None
    role: str | None
    state: str | None
    seconds: float


async def read_server(conn: AsyncConnection, slot: str, schema: str) -> ServerFacts:
    """Return the facts; `slot` and `schema` are the names we want for ourselves."""
    async with conn.cursor(row_factory=class_row(ServerFacts)) as cursor:
        await cursor.execute(_block("server"), {"slot": slot, "schema": schema})
        facts = await cursor.fetchone()
    assert facts is not None  # noqa: S101 - a SELECT without FROM has one row
    return facts


async def read_tables(conn: AsyncConnection, names: Sequence[str]) -> list[TableFact]:
    """Return those of the tables, and of their partitions, that are not ours to count; unknown names are left out."""
    async with conn.cursor(row_factory=class_row(TableFact)) as cursor:
        await cursor.execute(_block("foreign_tables"), {"names": list(names)})
        return await cursor.fetchall()


async def read_open_transactions(conn: AsyncConnection, seconds: float = OPEN_SECONDS) -> list[OpenTransaction]:
    """Return what has been open for `seconds`, and every prepared transaction, the oldest first."""
    async with conn.cursor(row_factory=class_row(OpenTransaction)) as cursor:
        await cursor.execute(_block("open_transactions"), {"seconds": seconds})
        return await cursor.fetchall()


async def may_replicate(conn: AsyncConnection, role: str) -> bool | None:
    """Return whether `role` has the REPLICATION right; None when there is no such role."""
    cursor = await conn.execute(_block("role_may_replicate"), {"role": role})
    row = await cursor.fetchone()
    return None if row is None else bool(row[0])


def _block(name: str) -> bytes:
    # Bytes: psycopg's type for text that is not a literal of the program.
    return sql_blocks("readiness")[name].encode()
