"""The file with every figure: sections are replaced one by one, targets are judged anew whenever it is written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.figures import Figure, Figures
from benchmarks.sections import NAMES, section
from benchmarks.targets import Judgement, judge


@dataclass(slots=True)
class Measured:
    """One run of one section. `provenance` is where, when, from what and by which command."""

    figures: Figures
    missing: dict[str, str]
    provenance: dict[str, Any]
    quick: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what is kept."""
        return {
            **self.provenance,
            "quick": self.quick,
            "seconds": round(self.seconds),
            "missing": self.missing,
            "figures": [figure.to_json() for figure in self.figures],
        }

    def follows(self, earlier: "Measured") -> bool:
        """Whether both measured the same: then their rounds are rounds of one run that had a pause."""
        # The first piece, once it is kept here, makes the working tree dirty for the second.
        commits = {str(each.provenance.get("commit")).removesuffix("-dirty") for each in (self, earlier)}
        return len(commits) == 1 and self.quick == earlier.quick

    def add(self, later: "Measured") -> None:
        """Add the rounds of a later run, whose command and time are those that are told from now on."""
        for figure in later.figures:
            for value in figure.rounds:
                self.figures.record(figure.measure, figure.peer, figure.unit, value, figure.conditions)
        self.missing |= later.missing
        self.provenance = later.provenance
        self.seconds += later.seconds

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read what was kept."""
        own = {"quick", "seconds", "missing", "figures"}
        return cls(
            Figures(map(Figure.from_json, kept["figures"])),
            dict(kept["missing"]),
            {name: value for name, value in kept.items() if name not in own},
            kept["quick"],
            kept["seconds"],
        )


@dataclass(slots=True)
class Evidence:
    """What the file keeps."""

    sections: dict[str, Measured] = field(default_factory=dict)

    def put(self, name: str, measured: Measured, *, add: bool = False) -> None:
        """Keep a run of a section in place of what is there, or added to it where that measured the same."""
        kept = self.sections.get(name)
        if add and kept is not None and measured.follows(kept):
            kept.add(measured)
        else:
            self.sections[name] = measured

    def judgements(self, name: str) -> list[Judgement]:
        """Return what became of a section's targets."""
        measured = self.sections.get(name)
        return [judge(target, measured.figures if measured else Figures()) for target in section(name).TARGETS]

    def save(self, path: Path) -> None:
        """Write everything, sections in their order."""
        kept = {
            "targets": {name: [each.to_json() for each in self.judgements(name)] for name in NAMES},
            "sections": {name: self.sections[name].to_json() for name in NAMES if name in self.sections},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; empty without one."""
        if not path.exists():
            return cls()
        kept = json.loads(path.read_text(encoding="utf-8"))["sections"]
        return cls({name: Measured.from_json(measured) for name, measured in kept.items()})
