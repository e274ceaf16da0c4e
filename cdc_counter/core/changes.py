"""What lies between the counters that are declared and those that are there.

Values that are made once, shown by `plan`, carried out by `apply` and `init`. Owns what follows for a counter (added,
altered, recounted, removed, kept) and what Redis must then know of it. How tables and triggers are changed is not its
business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, Protocol

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.reading import CounterState

_MEANING: Final = "the same words mean something else now: a column's type, a function or the table was changed"


class Act(StrEnum):
    """What becomes of a counter. All but `keep` and `remove` end in a count of the existing rows."""

    ADD = "add"
    ALTER = "alter"
    RECOUNT = "recount"
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of a declaration, as it is and as it shall be."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class CounterChange:
    """What becomes of one counter; `reason` says why where no difference of the declaration does."""

    counter: str
    act: Act
    differences: tuple[Difference, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TableRepair:
    """A table that was not captured whole: what was missing, and the counters that are recounted for it."""

    table: str
    reasons: tuple[str, ...]
    counters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """Everything that is to be done. `steps` are the database's transactions, `slot` one to be created or ''.

    Without a slot, and where Redis has no tallies, it is for `init` to carry out. `unknown` are counters that Redis has
    to learn of, `forgotten` those that it has to forget, for the database is changed already.
    """

    counters: tuple[CounterChange, ...]
    tables: tuple[TableRepair, ...] = ()
    steps: tuple[str, ...] = ()
    slot: str = ""
    has_tallies: bool = True
    unknown: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return self.has_tallies and not (self.steps or self.slot or self.unknown or self.forgotten)

    @property
    def needs_init(self) -> bool:
        """Whether there is nothing yet that could be changed."""
        return not self.has_tallies or bool(self.slot)

    def named(self, *acts: Act) -> tuple[str, ...]:
        """Return the counters that one of these acts awaits."""
        return tuple(change.counter for change in self.counters if change.act in acts)

    def to_json(self) -> dict[str, Any]:
        """Return the plain dict that `plan --json` prints."""
        return {"changes": not self.is_empty, **asdict(self)}


def change_of(
    counter: str, before: CounterDefinition | None, after: CounterDefinition | None, *, same: bool, hole: bool
) -> CounterChange:
    """Return what becomes of a counter. `same`: its numbers mean what they meant; `hole`: some may be missing."""
    if after is None:
        return CounterChange(counter, Act.REMOVE)
    if before is None:
        return CounterChange(counter, Act.ADD)
    if not same:
        found = differences(before, after)
        return CounterChange(counter, Act.ALTER, found, "" if found else _MEANING)
    if hole:
        return CounterChange(counter, Act.RECOUNT, reason="its table was not captured whole")
    return CounterChange(counter, Act.KEEP)


def differences(before: CounterDefinition, after: CounterDefinition) -> tuple[Difference, ...]:
    """Return the keys in which two declarations differ, in the order of the configuration file."""
    old, new = _as_declared(before), _as_declared(after)
    return tuple(Difference(key, old[key], new[key]) for key in new if old[key] != new[key])


def _as_declared(definition: CounterDefinition) -> dict[str, str]:
    return {
        "table": definition.table,
        "where": definition.where or "",
        "scope": ", ".join(definition.scope),
        "by": ", ".join(definition.by),
        "measure": f"sum({definition.sum_of})" if definition.sum_of is not None else "count",
    }


class Captured(Protocol):
    """A counter as the database captures it."""

    @property
    def id(self) -> int:
        """What its deltas carry."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def scoped(self) -> bool:
        """Whether it has scopes of its own."""

    @property
    def scale(self) -> int:
        """Decimal digits its sums are scaled by."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A record to be written in place of the one with the id `replaced`; None: there is none of that name."""

    record: CounterRecord
    replaced: int | None


@dataclass(frozen=True, slots=True)
class Following:
    """What Redis has to be told: counters that begin, and names whose record and tallies go."""

    begun: tuple[Beginning, ...]
    gone: tuple[CounterRecord, ...]

    @property
    def changes(self) -> int:
        """How many there are."""
        return len(self.begun) + len(self.gone)


def follow(known: Mapping[str, CounterRecord], captured: Sequence[Captured], now: float) -> Following:
    """Return what makes Redis know the captured counters, and no others. `known` must have been read first.

    A counter that was read as known and is not captured any more was removed; the other way round it may be on its way.
    """
    beginnings = []
    for counter in captured:
        old = known.get(counter.name)
        if old is None or old.id != counter.id:
            beginnings.append(Beginning(begun(old, counter, now), None if old is None else old.id))
    names = {counter.name for counter in captured}
    return Following(tuple(beginnings), tuple(known[name] for name in sorted(known.keys() - names)))


def begun(old: CounterRecord | None, counter: Captured, now: float) -> CounterRecord:
    """Return the record a counter begins with. Numbers of before stay, marked, until the new ones are there."""
    new = CounterRecord(counter.id, counter.name, CounterState.SEEDING, counter.scoped, counter.scale, since=now)
    if old is None or old.state is CounterState.SEEDING or old.scoped != counter.scoped:
        # There is nothing to go on showing: no number yet, or none for the scopes that are asked for now.
        return new
    shown = old.info.scale
    return replace(new, state=CounterState.REBUILDING, shown_scale=None if shown == counter.scale else shown)
