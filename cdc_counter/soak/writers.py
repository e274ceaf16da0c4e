"""The applications: several connections that keep writing whatever happens to their server, and one that stays open.

What concurrent writers do to each other, and what a schema refuses, is counted. Anything else that a statement fails
with is reported: a counter must never break a write.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql

from cdc_counter.soak.gate import Gate
from cdc_counter.soak.rows import Rows
from cdc_counter.soak.statements import Statement, insert_many
from cdc_counter.soak.transactions import Ending, Transaction, choose_long, choose_transaction

_log = logging.getLogger(__name__)

_EXPECTED: Final = frozenset(
    {
        "40001", "40P01", "55P03", "57014",  # serialization, deadlock, lock timeout, statement timeout
        "21000", "27000",  # a row met twice in one statement, or changed by its own triggers
        "42701", "42704", "42P07",  # two of us altered the same thing, or ended the same prepared transaction
    }
)  # fmt: skip
_EXPECTED_CLASSES: Final = ("0A", "22", "23", "P0")
"""Refused by server or schema: a row that an upsert would move to another partition, data, constraints, and what an
application's own triggers raise."""

_LOST: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
_JOURNAL: Final = 2000
_RETRY_SECONDS: Final = 0.2
_GARDEN_SECONDS: Final = 3.0
_SHORT_SECONDS: Final = 1.0
_GAP_SECONDS: Final = 1.5
"""Between two long transactions: a new slot waits for every one that runs, several times over."""
_SESSION: Final = "SET lock_timeout = '2s'; SET deadlock_timeout = '100ms'; SET statement_timeout = '20s'"
_LOCK_SECONDS_OF_RARE: Final = "SET LOCAL lock_timeout = '200ms'"
"""A TRUNCATE that waits for the long transaction keeps everybody else waiting behind itself."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is written: `rate` transactions a second of `writers` together, tables of about `rows` rows.

    `rare` is the share of what holds up everybody; `long` transactions are open at a time.
    """

    writers: int = 4
    rate: float = 24.0
    rows: int = 2500
    rare: float = 0.01
    long: int = 1


@dataclass(slots=True)
class Written:
    """What came of it. `unexpected`: SQLSTATE, message and what was done, of errors that nobody should see.

    `journal` has the last transactions in full, to find the one that was counted wrong.
    """

    committed: Counter[str] = field(default_factory=Counter)
    undone: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    unexpected: list[str] = field(default_factory=list)
    long_seconds: float = 0.0
    journal: deque[str] = field(default_factory=lambda: deque(maxlen=_JOURNAL))

    @property
    def total(self) -> int:
        """How many transactions ended as they were meant to."""
        return sum(self.committed.values()) + self.undone


class Writers:
    """Writes to `tables` at `dsn`, as `gate` lets it. `seed` fixes what each writer does, in its order.

    Until `settled` is set nothing is held open for long: an installation waits for it.
    """

    def __init__(self, dsn: str, tables: Sequence[Rows], gate: Gate, seed: int, *, load: Load, own_schema: str) -> None:
        self._dsn = dsn
        self._tables = tables
        self._gate = gate
        self._seed = seed
        self._load = load
        self._own = f"{own_schema}."
        self.written = Written()
        self.settled = asyncio.Event()
        self._xids: dict[str, str] = {}
        self._open = 0
        self._open_since = 0.0

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._load.writers):
                group.create_task(self._connected(self._write, f"w{number}"), name=f"writer {number}")
            for number in range(self._load.long):
                group.create_task(self._connected(self._stay_open, f"long{number}"), name=f"long transaction {number}")
            group.create_task(self._connected(self._tend, "garden"), name="gardener")

    async def fill(self) -> None:
        """Give every table that is empty some rows, parents first."""
        async with await AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            random = Random(f"{self._seed} fill")
            for rows in self._tables:
                cursor = await connection.execute(f"SELECT EXISTS (SELECT FROM {rows.table.name})".encode())
                if (await cursor.fetchone()) == (False,):
                    for _ in range(3):
                        statement = Statement("fill", insert_many(rows, random))
                        await self._attempt(connection, Transaction("fill", "READ COMMITTED", (statement,)), "fill")

    async def _connected(self, work: Any, name: str) -> None:
        """Do some work with a connection, again and again with new ones when it is lost."""
        random = Random(f"{self._seed} {name}")
        while True:
            try:
                async with await AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                    await connection.execute(_SESSION)
                    async with self._gate.passage():
                        await _finish_prepared(connection, name)
                    await work(connection, random, name)
            except psycopg.OperationalError as error:
                if not _is_lost(error):
                    self._unexpected("connecting", error)
                self.written.lost += 1
                await asyncio.sleep(_RETRY_SECONDS)

    async def _write(self, connection: AsyncConnection[Any], random: Random, name: str) -> None:
        mean = self._load.writers / self._load.rate
        prepared = await _may_prepare(connection)
        while True:
            await asyncio.sleep(random.expovariate(1 / mean))
            transaction = choose_transaction(self._tables, random, rare=self._load.rare, prepared=prepared)
            async with self._gate.passage():
                await self._attempt(connection, transaction, name)

    async def _stay_open(self, connection: AsyncConnection[Any], random: Random, name: str) -> None:
        while True:
            transaction = choose_long(self._tables, random)
            if not self.settled.is_set():
                transaction = replace(transaction, pause=_SHORT_SECONDS)
            async with self._gate.passage():
                with self._held_open():
                    await self._attempt(connection, transaction, name)
            await asyncio.sleep(random.expovariate(1 / _GAP_SECONDS))

    @contextmanager
    def _held_open(self) -> Iterator[None]:
        """Add up the time in which at least one is open."""
        if not self._open:
            self._open_since = time.monotonic()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self.written.long_seconds += time.monotonic() - self._open_since

    async def _tend(self, connection: AsyncConnection[Any], random: Random, name: str) -> None:
        """Keep the tables at their size: what grows too large loses a third, what gets too small is filled."""
        while True:
            await asyncio.sleep(_GARDEN_SECONDS)
            rows = random.choice(self._tables)
            table, limit = rows.table.name, self._load.rows
            thin = f"DELETE FROM {table} AS t WHERE {rows.some(random, 3)} AND (SELECT count(*) FROM {table}) > {limit}"
            fill = insert_many(rows, random) + f" WHERE (SELECT count(*) FROM {table}) < {limit // 3}"
            statements = (Statement("thin", thin), Statement("fill", fill))
            async with self._gate.passage():
                for statement in statements:
                    await self._attempt(connection, Transaction("garden", "READ COMMITTED", (statement,)), name)

    async def _attempt(self, connection: AsyncConnection[Any], transaction: Transaction, name: str) -> None:
        began = datetime.now(UTC)
        try:
            await self._perform(connection, transaction, name)
        except psycopg.Error as error:
            self._note(began, name, transaction, f"failed with {error.sqlstate}")
            if _is_lost(error) or connection.broken:
                raise psycopg.OperationalError("lost") from error
            if self._is_expected(error):
                self.written.refused[error.sqlstate or ""] += 1
            else:
                self._unexpected(transaction.kind, error)
            await connection.rollback()
        else:
            self._note(began, name, transaction, transaction.ending)
            if transaction.ending in (Ending.COMMIT, Ending.PREPARED_COMMIT):
                self.written.committed[transaction.kind] += 1
            else:
                self.written.undone += 1

    async def _perform(self, connection: AsyncConnection[Any], transaction: Transaction, name: str) -> None:
        self._xids[name] = ""
        await connection.execute(f"BEGIN ISOLATION LEVEL {transaction.isolation}".encode())
        if transaction.kind in {"truncate", "alter", "update_all", "partition"}:
            await connection.execute(_LOCK_SECONDS_OF_RARE)
        for statement in transaction.statements:
            await _execute(connection, statement)
        self._xids[name] = await _xid(connection)
        if not transaction.ending.prepared:
            await self._gate.sleep(transaction.pause)
            await connection.execute(transaction.ending.encode())
            return
        gid = sql.Literal(f"soak {name}")
        await connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))
        await self._gate.sleep(transaction.pause)
        await connection.execute(sql.SQL(transaction.ending.value + " {}").format(gid))

    def _note(self, began: datetime, name: str, transaction: Transaction, outcome: str) -> None:
        sql = "".join(f"\n    {s.sql}{f' {s.rows}' if s.rows else ''}" for s in transaction.statements)
        times = f"{began:%H:%M:%S.%f} to {datetime.now(UTC):%H:%M:%S.%f}"
        xid = self._xids.get(name, "")
        self.written.journal.append(f"{times} {name} xid {xid} {transaction.isolation} {outcome}{sql}")

    def _is_expected(self, error: psycopg.Error) -> bool:
        state = error.sqlstate or ""
        if self._own in (error.diag.context or ""):
            # Our trigger is in it: only what any statement may meet is the application's own doing.
            return state in _EXPECTED
        return state in _EXPECTED or state.startswith(_EXPECTED_CLASSES)

    def _unexpected(self, kind: str, error: psycopg.Error) -> None:
        text = f"{error.sqlstate or type(error).__name__}: {' '.join(str(error).split())[:300]} (in: {kind})"
        _log.error("a writer failed: %s", text)
        self.written.unexpected.append(text)


async def _execute(connection: AsyncConnection[Any], statement: Statement) -> None:
    if not statement.rows:
        await connection.execute(statement.sql.encode())
        return
    async with connection.cursor() as cursor, cursor.copy(statement.sql.encode()) as copy:
        for row in statement.rows:
            await copy.write_row(row)


async def _xid(connection: AsyncConnection[Any]) -> str:
    row = await (await connection.execute("SELECT pg_current_xact_id_if_assigned()::text")).fetchone()
    return row[0] or "" if row else ""


async def _finish_prepared(connection: AsyncConnection[Any], name: str) -> None:
    """End what an earlier connection of this writer left prepared: it holds its locks through every restart."""
    query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid = %s"
    for (gid,) in await (await connection.execute(query, [f"soak {name}"])).fetchall():
        await connection.execute(sql.SQL("COMMIT PREPARED {}").format(sql.Literal(gid)))


async def _may_prepare(connection: AsyncConnection[Any]) -> bool:
    row = await (await connection.execute("SELECT current_setting('max_prepared_transactions')::int > 0")).fetchone()
    return row == (True,)


def _is_lost(error: psycopg.Error) -> bool:
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state in _LOST or state.startswith("08")
