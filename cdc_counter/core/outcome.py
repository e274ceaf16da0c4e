"""What Redis answered to a script call, as values to decide on."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TallyGroup:
    """Deltas for one hash of tallies. `hidden`: the counter is being seeded, readers must not see it."""

    counter: str
    scope: str
    deltas: Mapping[str, int]
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A compare-and-set of one meta field."""

    field: str
    expected: str
    new: str


@dataclass(frozen=True, slots=True)
class Applied:
    """Done, now or (when an earlier reply was lost) before."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another value was stored than the one built on: somebody else applied, or Redis went back. Nothing was done."""

    field: str
    stored: str


@dataclass(frozen=True, slots=True)
class OtherEpoch:
    """Other tallies are stored, or (`stored` empty) none. Nothing was done."""

    stored: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """A stored value of `group` can't take its delta. Nothing was done; `group` None: not a tally's fault."""

    key: str
    bucket: str
    reason: str
    group: TallyGroup | None


Outcome = Applied | Conflict | OtherEpoch | Unfit


def seed_field(counter: str) -> str:
    """Return the meta field that journals a counter's seed, so that no chunk is added twice."""
    return f"seed:{counter}"


def repair_field(counter: str) -> str:
    """Return the meta field that makes sure a repair is done once."""
    return f"repair:{counter}"
