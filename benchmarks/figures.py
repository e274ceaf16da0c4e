"""What was measured: a figure's value in every round, under its conditions. Pure."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

OURS: Final = "cdc-counter"
"""The peer that is us."""

Condition = str | int | float


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of some rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Return that of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(slots=True)
class Figure:
    """One measure of one peer under its conditions: `rounds` has one value per round, in their order."""

    measure: str
    peer: str
    unit: str
    conditions: dict[str, Condition]
    rounds: list[float] = field(default_factory=list)

    @property
    def spread(self) -> Spread:
        """Over the rounds."""
        return Spread.of(self.rounds)

    def holds(self, conditions: Mapping[str, Condition]) -> bool:
        """Whether it was taken under these conditions, whatever others it has."""
        return all(self.conditions.get(name) == value for name, value in conditions.items())

    def to_json(self) -> dict[str, Any]:
        """Return what is kept; median and ends are for the reader and are not read back."""
        spread = self.spread
        return {
            "measure": self.measure,
            "peer": self.peer,
            "unit": self.unit,
            "conditions": self.conditions,
            "median": _short(spread.median),
            "min": _short(spread.low),
            "max": _short(spread.high),
            "rounds": [_short(value) for value in self.rounds],
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read what was kept."""
        return cls(kept["measure"], kept["peer"], kept["unit"], dict(kept["conditions"]), list(kept["rounds"]))


class Figures(list[Figure]):
    """The figures of a section."""

    def record(
        self, measure: str, peer: str, unit: str, value: float, conditions: Mapping[str, Condition] | None = None
    ) -> None:
        """Add one round's value."""
        wanted = dict(conditions or {})
        found = next((each for each in self if _same(each, measure, peer, wanted)), None)
        if found is None:
            found = Figure(measure, peer, unit, wanted)
            self.append(found)
        if found.unit != unit:
            raise ValueError(f"{measure} of {peer} is in {found.unit}, not in {unit}")
        found.rounds.append(value)

    def select(self, measure: str | None = None, peer: str | None = None, **conditions: Condition) -> "Figures":
        """Return those of a measure or a peer, under these conditions, in the order they were taken."""
        return Figures(
            each
            for each in self
            if measure in (None, each.measure) and peer in (None, each.peer) and each.holds(conditions)
        )


def _same(figure: Figure, measure: str, peer: str, conditions: dict[str, Condition]) -> bool:
    return (figure.measure, figure.peer, figure.conditions) == (measure, peer, conditions)


def _short(value: float) -> float:
    """Five significant digits: what is beyond them is noise, in the file too."""
    return float(f"{value:.5g}")
