"""What readers get: a reading of one scope, and the entries of the feed.

The tallies' side produces these values, the gateway and the client consume them; neither knows the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import UnreachableError


class CounterState(StrEnum):
    """How far a counter's numbers can be trusted."""

    LIVE = "live"
    SEEDING = "seeding"
    REBUILDING = "rebuilding"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class CounterInfo:
    """What is known about a counter without reading its tallies. `scoped` False: its only scope is `-`."""

    name: str
    scoped: bool
    state: CounterState
    scale: int = 0


@dataclass(frozen=True, slots=True)
class VerifiedAt:
    """When (unix seconds) and at which LSN the whole counter was last found equal to a recount."""

    time: float
    lsn: str


class UnknownCounterError(UnreachableError):
    """There is no counter of that name, or none any more."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Every bucket of one scope at one watermark.

    `values` maps bucket to tally, zero buckets absent, empty while the counter is first seeded. `sequence` is the
    feed's last entry at that moment: entries up to it are included, later ones are not. `scale` is the number of
    decimal digits a sum is scaled by (12.34 is kept as 1234 with scale 2), 0 for counts. `verified_at` is None when the
    counter was not verified since it became what it is. `scoped` False: the counter's only scope is `-`.
    """

    counter: str
    scope: str
    values: Mapping[str, int]
    version: Lsn
    epoch: str
    state: CounterState
    sequence: int
    scale: int = 0
    verified_at: VerifiedAt | None = None
    scoped: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """New absolute values of some buckets of one scope; 0 means gone."""

    sequence: int
    counter: str
    scope: str
    values: Mapping[str, int]
    version: Lsn


@dataclass(frozen=True, slots=True)
class Reset:
    """All of a counter is to be read again: its state changed, or it was rebuilt or removed. None: all counters."""

    sequence: int
    counter: str | None


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries were missed (the feed was trimmed or lost): every reading is to be taken again. `sequence` is next."""

    sequence: int


FeedEntry = Change | Reset | Gap
