"""The transactions an installation is made of, as values: each is one step that has happened or has not.

Pure. A step touches at most one of the application's tables, so that no lock is held while waiting for another.
"""

from dataclasses import dataclass
from typing import Final

from cdc_counter.core.changes import CounterChange, TableRepair
from cdc_counter.postgres.rendering import literal_text
from cdc_counter.postgres.settings import pinned_settings

LOCK_TIMEOUT_MS: Final = 100
"""Writers that come while we wait for a lock wait as long: shorter than people notice. `postgres.lock_timeout_ms`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction. `relation` is the application's table that it locks, as SQL; None when it locks none."""

    title: str
    statements: tuple[str, ...]
    relation: str | None = None

    def sql(self, lock_timeout_ms: int = LOCK_TIMEOUT_MS) -> list[str]:
        """Return the whole transaction, for `psql`: every statement ends with a semicolon."""
        patience = f"SET LOCAL lock_timeout = '{lock_timeout_ms}ms'"
        return [f"{statement};" for statement in ("BEGIN", patience, *self.prologue, *self.statements, "COMMIT")]

    @property
    def prologue(self) -> tuple[str, ...]:
        """Return the settings of the transaction: the texts mean what they meant when they were deparsed."""
        return tuple(
            f"SET LOCAL {name} = {value if name == 'search_path' else literal_text(value)}"
            for name, value in pinned_settings().items()
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order; nothing when everything is in place. The rest says what it is good for."""

    steps: tuple[Step, ...]
    counters: tuple[CounterChange, ...] = ()
    tables: tuple[TableRepair, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.steps
