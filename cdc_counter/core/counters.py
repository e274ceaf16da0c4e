"""What is known of an installed counter, and where its deltas go in each state."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum, auto
from typing import Any

from cdc_counter.core.reading import CounterInfo, CounterState


class Route(Enum):
    """Where a counter's deltas are added."""

    TALLY = auto()
    HIDDEN = auto()
    NOWHERE = auto()


@dataclass(frozen=True, slots=True)
class CounterRecord:
    """One counter as kept in Redis. `reason` says why it is not live, `since` (unix seconds) since when.

    `quarantined`: a tally of it can't be written (wrong type, 64-bit overflow), so its deltas are left out until it is
    rebuilt; the others go on. `drifted`: so many keys were found to be wrong, so that it is stale until it is repaired.
    `shown_scale`: the scale of the values that readers see while it is rebuilt by another definition; None: `scale`.
    """

    id: int
    name: str
    state: CounterState
    scoped: bool
    scale: int = 0
    quarantined: bool = False
    reason: str = ""
    since: float = 0.0
    drifted: int = 0
    shown_scale: int | None = None

    @property
    def info(self) -> CounterInfo:
        """What readers need."""
        scale = self.scale if self.shown_scale is None else self.shown_scale
        return CounterInfo(self.name, self.scoped, self.state, scale)

    @property
    def awaits_seed(self) -> bool:
        """Whether its tallies are being, or are to be, counted from the table."""
        return self.state in (CounterState.SEEDING, CounterState.REBUILDING)

    @property
    def verifiable(self) -> bool:
        """Whether its tallies claim to be exact, or are known not to be; what is to be counted anew claims nothing."""
        return self.state is CounterState.LIVE or (self.state is CounterState.STALE and self.drifted > 0)

    def moved_to(
        self, state: CounterState, now: float, reason: str = "", *, quarantined: bool = False, drifted: int = 0
    ) -> "CounterRecord":
        """Return the record in another state; a live one shows values of its own."""
        shown_scale = None if state is CounterState.LIVE else self.shown_scale
        return replace(
            self,
            state=state,
            reason=reason,
            quarantined=quarantined,
            since=now,
            drifted=drifted,
            shown_scale=shown_scale,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plain dict that is stored as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CounterRecord":
        """Read back what `to_json` gave; raises TypeError, KeyError or ValueError on foreign data."""
        return cls(**{**data, "state": CounterState(data["state"])})


def route_of(record: CounterRecord | None, activated: frozenset[int]) -> Route:
    """Return where deltas go: a counter that awaits its seed takes part only once its snapshot is fixed."""
    if record is None or record.quarantined:
        return Route.NOWHERE
    if record.awaits_seed:
        return Route.HIDDEN if record.id in activated else Route.NOWHERE
    return Route.TALLY
