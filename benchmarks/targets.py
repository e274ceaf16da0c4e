"""What a figure is to reach, as data, and the one place that judges it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from benchmarks.figures import OURS, Condition, Figure, Figures, Spread


class Verdict(StrEnum):
    """Of a target."""

    MET = "met"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """Our figure of a measure, or its ratio to that of the peer `to`, is at least or at most something.

    `conditions` name the one figure that is meant, `to_measure` and `to_conditions` the peer's where they differ from
    ours.
    """

    measure: str
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    ours: str = OURS
    to: str = ""
    to_measure: str = ""
    to_conditions: Mapping[str, Condition] | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        """Have exactly one bound."""
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"the target of {self.measure!r} needs at_least or at_most, and only one")

    def reached(self, value: float) -> bool:
        """Whether a value is enough."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most


@dataclass(frozen=True, slots=True)
class Judgement:
    """A target, what was found, and what follows. The median decides; `spread` has the ends too."""

    target: Target
    verdict: Verdict
    spread: Spread | None = None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what is kept."""
        target, spread = self.target, self.spread
        kept: dict[str, Any] = {"measure": target.measure, "peer": target.ours, "conditions": dict(target.conditions)}
        if target.to:
            kept["to"] = {
                "peer": target.to,
                "measure": target.to_measure or target.measure,
                "conditions": dict(target.conditions if target.to_conditions is None else target.to_conditions),
            }
        kept["at_least" if target.at_least is not None else "at_most"] = target.at_least or target.at_most
        if spread is not None:
            kept["found"] = {name: float(f"{getattr(spread, name):.4g}") for name in ("median", "low", "high")}
        return {**kept, "verdict": self.verdict} | ({"why": self.why} if self.why else {})


def judge(target: Target, figures: Figures) -> Judgement:
    """Compare; a ratio is taken round by round, for what was interleaved was measured under the same weather."""
    ours = figures.select(target.measure, target.ours, **target.conditions)
    if len(ours) != 1:
        return Judgement(target, Verdict.NOT_MEASURED, why=f"{len(ours)} figures of {target.ours}")
    values = ours[0].rounds
    if target.to:
        conditions = target.conditions if target.to_conditions is None else target.to_conditions
        peers = figures.select(target.to_measure or target.measure, target.to, **conditions)
        if len(peers) != 1:
            return Judgement(target, Verdict.NOT_MEASURED, why=f"{len(peers)} figures of {target.to}")
        values = ratios(ours[0], peers[0])
    if not values:
        return Judgement(target, Verdict.NOT_MEASURED, why="no round has both")
    spread = Spread.of(values)
    return Judgement(target, Verdict.MET if target.reached(spread.median) else Verdict.MISSED, spread)


def ratios(ours: Figure, peer: Figure) -> list[float]:
    """Return ours over the peer's, round by round, as far as both went."""
    return [mine / other for mine, other in zip(ours.rounds, peer.rounds, strict=False) if other]
