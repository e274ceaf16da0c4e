"""Statements put into transactions: isolation levels, savepoints, settings, two phases, and how they end."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from cdc_counter.soak.rows import Rows
from cdc_counter.soak.statements import Statement, choose, choose_rare, choose_small

_ISOLATIONS: Final = ("READ COMMITTED",) * 6 + ("REPEATABLE READ",) * 2 + ("SERIALIZABLE",) * 2

_SETTINGS: Final = (
    "SET LOCAL TimeZone = 'Asia/Kolkata'",
    "SET LOCAL DateStyle = 'German'",
    "SET LOCAL IntervalStyle = 'sql_standard'",
    "SET LOCAL extra_float_digits = -5",
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL session_replication_role = replica",
)
"""What a session may have set that must not change what is counted."""


class Ending(StrEnum):
    """How a transaction ends."""

    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    PREPARED_COMMIT = "COMMIT PREPARED"
    PREPARED_ROLLBACK = "ROLLBACK PREPARED"

    @property
    def prepared(self) -> bool:
        """Whether it ends in two phases."""
        return self in (Ending.PREPARED_COMMIT, Ending.PREPARED_ROLLBACK)


@dataclass(frozen=True, slots=True)
class Transaction:
    """Statements in order; `pause` seconds pass before the end."""

    kind: str
    isolation: str
    statements: tuple[Statement, ...]
    ending: Ending = Ending.COMMIT
    pause: float = 0.0


def choose_transaction(tables: Sequence[Rows], random: Random, *, rare: float, prepared: bool) -> Transaction:
    """Return what a writer does next; `rare` is the share of what holds up the others."""
    if random.random() < rare:
        statement = choose_rare(tables, random)
        # Mostly: a TRUNCATE with an old snapshot can't be counted, and makes the counter be built again.
        isolation = "REPEATABLE READ" if random.random() < 0.1 else "READ COMMITTED"
        ending = Ending.COMMIT if random.random() < 0.8 else Ending.ROLLBACK
        return Transaction(statement.kind, isolation, (statement,), ending)
    statements = [choose(tables, random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    kinds = [statement.kind for statement in statements]
    around = random.random()
    if around < 0.12:
        statements = _with_savepoint(statements, [choose(tables, random) for _ in range(2)])
        kinds.append("savepoint")
    elif around < 0.18:
        statements.insert(0, Statement("setting", random.choice(_SETTINGS)))
        kinds.append("setting")
    ending, pause = _ending(random, prepared=prepared)
    if ending.prepared:
        kinds.append("prepared")
    return Transaction(" + ".join(kinds), random.choice(_ISOLATIONS), tuple(statements), ending, pause)


def choose_long(tables: Sequence[Rows], random: Random) -> Transaction:
    """Return a transaction that writes a little and then stays open for 5 to 60 seconds."""
    statements = tuple(choose_small(tables, random) for _ in range(random.randint(1, 3)))
    ending = Ending.COMMIT if random.random() < 0.7 else Ending.ROLLBACK
    pause = min(60.0, 5.0 + random.expovariate(1 / 12))
    return Transaction("long", random.choice(_ISOLATIONS), statements, ending, pause)


def _with_savepoint(statements: list[Statement], undone: list[Statement]) -> list[Statement]:
    back = [Statement("savepoint", "ROLLBACK TO SAVEPOINT soak"), Statement("savepoint", "RELEASE SAVEPOINT soak")]
    return [*statements[:1], Statement("savepoint", "SAVEPOINT soak"), *undone, *back, *statements[1:]]


def _ending(random: Random, *, prepared: bool) -> tuple[Ending, float]:
    share = random.random()
    if share < 0.75:
        return Ending.COMMIT, 0.0
    if share < 0.88 or not prepared:
        return Ending.ROLLBACK, 0.0
    pause = random.random() * 0.3
    return (Ending.PREPARED_COMMIT if random.random() < 0.6 else Ending.PREPARED_ROLLBACK), pause
