"""What torture counted: a run's figures, and the file that keeps them over many runs."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from tests.torture.kind import Kind


@dataclass(slots=True)
class Figures:
    """One run of one kind. `recoveries`: seconds from a strike to the first later commit being in the tallies."""

    kind: Kind
    seed: int
    commit: str
    versions: str
    deaths: int = 0
    variants: Counter[str] = field(default_factory=Counter)
    comparisons: int = 0
    keys_compared: int = 0
    screens_compared: int = 0
    differences: int = 0
    transactions: int = 0
    epochs_begun: int = 0
    seconds: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every number was right and nothing else was wrong."""
        return self.differences == 0 and not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return what is kept."""
        # Not `asdict`: it makes a Counter of a Counter's pairs.
        kept = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**kept, "seconds": round(self.seconds), "recoveries": [round(s, 2) for s in self.recoveries]}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read what was kept."""
        return cls(**{**kept, "kind": Kind(kept["kind"]), "variants": Counter(kept["variants"])})


def summary(runs: Sequence[Figures]) -> dict[str, Any]:
    """Return the sums that are published: deaths by kind, differences, how long each kind took to move again."""
    return {
        **{kind: sum(run.deaths for run in runs if run.kind is kind) for kind in Kind},
        **{
            name: sum(getattr(run, name) for run in runs)
            for name in ("differences", "comparisons", "keys_compared", "screens_compared", "transactions")
        },
        "epochs_begun": {kind: sum(run.epochs_begun for run in runs if run.kind is kind) for kind in Kind},
        "seconds": round(sum(run.seconds for run in runs)),
        "findings": [finding for run in runs for finding in run.findings],
        "recovery_seconds": {kind: spread for kind in Kind if (spread := _spread(_recoveries(runs, kind)))},
    }


def load(path: Path) -> list[Figures]:
    """Return the runs that a file keeps; none without a file."""
    if not path.exists():
        return []
    return [Figures.from_json(run) for run in json.loads(path.read_text(encoding="utf-8"))["runs"]]


def save(path: Path, runs: Sequence[Figures]) -> None:
    """Write sums and runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {**summary(runs), "runs": [run.to_json() for run in runs]}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _recoveries(runs: Iterable[Figures], kind: Kind) -> list[float]:
    return sorted(seconds for run in runs if run.kind is kind for seconds in run.recoveries)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {
        "median": round(statistics.median(seconds), 2),
        "p95": round(seconds[int(len(seconds) * 0.95)], 2),
        "max": round(seconds[-1], 2),
    }
