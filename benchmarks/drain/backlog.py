"""A recorded backlog: changes that were committed while nobody read, and a slot that stands before them.

Each reader gets a copy of that slot, so that all read the same WAL, ours with what Redis held at that moment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.stage import Stage

SLOT: Final = "cdc_counter"
"""Ours, as the configuration has it."""

BASE_PUBLICATION: Final = "base_table"
_RECORDED: Final = "recorded"
_STATEMENT: Final = 1_000

_SCHEMA: Final = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, bucket int NOT NULL, amount int NOT NULL);
CREATE PUBLICATION base_table FOR TABLE events WITH (publish = 'insert');
"""

COUNTER: Final = """
[[counter]]
name = "amount"
table = "events"
by = "bucket"
measure = "sum(amount)"
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the changes were written: `rows` by each statement over `keys` keys, one transaction each or one for all."""

    name: str
    rows: int
    keys: int
    one_transaction: bool = False

    def statements(self, changes: int) -> str:
        """Return what writes so many changes."""
        commit = "" if self.one_transaction else "COMMIT;"
        return f"""
            DO $$ BEGIN
                FOR turn IN 1..{changes // self.rows} LOOP
                    INSERT INTO events (bucket, amount)
                    SELECT (turn * {self.rows} + i) % {self.keys}, 1 + i % 7 FROM generate_series(1, {self.rows}) AS i;
                    {commit}
                END LOOP;
            END $$"""


ONE_ROW: Final = Shape("one-row transactions", 1, 1_000)
FEW_KEYS: Final = Shape("statements of 1,000 rows over 10 keys", _STATEMENT, 10)
MANY_KEYS: Final = Shape("statements of 1,000 rows over 1,000 keys", _STATEMENT, 1_000)
ONE_TRANSACTION: Final = Shape("one transaction", _STATEMENT, 1_000, one_transaction=True)
SHAPES: Final = (ONE_ROW, FEW_KEYS, MANY_KEYS, ONE_TRANSACTION)


class Backlog:
    """So many changes of a shape, written on a stage of their own."""

    def __init__(self, stage: Stage, shape: Shape, changes: int) -> None:
        self.stage = stage
        self.shape = shape
        self.changes = changes
        stage.sql(_SCHEMA)
        stage.configure(COUNTER)
        stage.run("init")
        self._copy(SLOT, _RECORDED)
        with stage.client() as client:
            self._before = {key: client.dump(key) for key in client.scan_iter(count=1_000)}
        stage.sql(shape.statements(changes))
        stage.sql("CHECKPOINT")
        # Flushed, so that every reader gets there.
        stage.sql("SELECT pg_logical_emit_message(true, 'bench', '', true)")
        self.end: str = stage.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0]
        self._truth = dict(stage.sql("SELECT bucket::text, sum(amount)::bigint FROM events GROUP BY bucket"))

    def dsn(self, transport: str) -> str:
        """Return where to connect over "tcp" or "unix"."""
        return self.stage.unix_dsn if transport == "unix" else self.stage.dsn

    @contextmanager
    def slot(self, name: str, plugin: str = "pgoutput") -> Iterator[str]:
        """Copy the slot that stands before the backlog, and drop the copy in the end."""
        self._drop(name)
        self._copy(_RECORDED, name, plugin)
        try:
            yield name
        finally:
            self._drop(name)

    def confirmed(self, slot: str) -> bool:
        """Whether a slot was told that everything is done."""
        asked = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        return bool(self.stage.sql(asked, self.end, slot)[0][0])

    def restore_tallies(self) -> None:
        """Make Redis what it was before the changes."""
        with self.stage.client() as client:
            client.flushall()
            for key, value in self._before.items():
                client.restore(key, 0, value)

    def require_exact(self) -> None:
        """Raise unless Redis holds exactly the sums of the table."""
        with self.stage.client() as client:
            found = {bucket.decode(): int(value) for bucket, value in client.hgetall("cdc:tally:amount:-").items()}
        if found != self._truth:
            wrong = [key for key in self._truth.keys() | found if self._truth.get(key) != found.get(key)]
            raise AssertionError(f"{len(wrong)} of {len(self._truth)} sums are wrong after {self.shape.name}")

    def _copy(self, source: str, target: str, plugin: str = "pgoutput") -> None:
        self.stage.sql("SELECT pg_copy_logical_replication_slot(%s, %s, false, %s)", source, target, plugin)

    def _drop(self, name: str) -> None:
        # The walsender of a client that is gone notices it when it sends next: it is told.
        self.stage.sql(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s AND active",
            name,
        )
        self.stage.sql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", name
        )
