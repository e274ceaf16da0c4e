"""The competitors: one table each, alike but for what keeps its counters, in one database."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from benchmarks.figures import OURS
from benchmarks.sql import blocks, run
from benchmarks.stage import Stage
from benchmarks.writers.counters import MOST, declared

NO_TRIGGER: Final = "no trigger"
ROW_TRIGGER: Final = "row trigger, an outbox row per delta"
COUNTER_ROW: Final = "trigger on counter rows"
COUNTING: Final = "no trigger, readers COUNT(*)"


@dataclass(frozen=True, slots=True)
class Competitor:
    """A peer's name, its table, and how many counters are kept of it."""

    peer: str
    table: str
    counters: int

    @property
    def label(self) -> str:
        """The peer, and how many counters where ours has several tables."""
        return f"{self.peer}, {self.counters} counters" if self.peer == OURS else self.peer


BARE: Final = Competitor(NO_TRIGGER, "bare", 0)
OURS_1: Final = Competitor(OURS, "ours_1", 1)
OURS_3: Final = Competitor(OURS, "ours_3", 3)
OURS_10: Final = Competitor(OURS, "ours_10", MOST)
ROWS: Final = Competitor(ROW_TRIGGER, "row_trigger", 3)
COUNTER: Final = Competitor(COUNTER_ROW, "counter_row", 3)
COUNTED: Final = Competitor(COUNTING, "counted", 0)

_ALL: Final = (BARE, OURS_1, OURS_3, OURS_10, ROWS, COUNTER, COUNTED)


def make(stage: Stage, rows: int) -> None:
    """Make every competitor's table, so many rows in each.

    Ours are installed as `init` does it; then the slot goes: no consumer is to take the writers' share of the machine,
    and nobody is to keep the WAL.
    """
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        make_by_hand(connection, rows)
    ours = [each for each in _ALL if each.peer == OURS]
    stage.configure("\n".join(declared(each.table, each.counters) for each in ours))
    stage.run("init")
    stage.sql("SELECT pg_drop_replication_slot('cdc_counter')")
    stage.sql("CHECKPOINT")


def make_by_hand(connection: psycopg.Connection, rows: int) -> None:
    """Make the tables, and on those that are not ours what keeps their counters."""
    named = blocks(Path(__file__).with_name("tables.sql"))
    for competitor in _ALL:
        run(connection, named["table"], table=sql.Identifier(competitor.table), rows=sql.Literal(rows))
    for competitor, block, function in (
        (ROWS, "row_trigger", "note_row_deltas"),
        (COUNTER, "counter_row", "move_counter_rows"),
    ):
        run(connection, named[block])
        table = sql.Identifier(competitor.table)
        run(connection, named["row_level"], table=table, function=sql.Identifier(function))
    for block in ("index_for_counting", "vacuum"):
        run(connection, named[block], table=sql.Identifier(COUNTED.table))
