"""What a soak has seen so far: figures, findings, samples over time, and what happened last.

Everybody writes here; screen, report and page read it. A finding ends the soak: what comes after it proves nothing.
"""

import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cdc_counter.soak.schedule import FaultKind

_LAST: Final = 200
_NUMBERS: Final = re.compile(r"\d[\d/A-F]*\b")


class FindingKind(StrEnum):
    """What can be wrong."""

    MISMATCH = "mismatch"
    """A tally that is not what an honest recount says."""
    FALSE_ALARM = "false alarm"
    """Drift was reported, and there is none."""
    MISSED = "missed mismatch"
    """A recount at rest found what verification had not reported."""
    NOT_RECOVERED = "not recovered"
    WRITER = "writer"
    """A statement failed that should not have."""
    DAEMON = "daemon"
    """The process ended by a defect."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`after` seconds from the start."""

    kind: FindingKind
    text: str
    after: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One second's view. `lag` in seconds and `backlog` in bytes as the daemon reports them, None while it does not."""

    after: float
    lag: float | None
    backlog: int | None
    checks: int
    transactions: int
    live: int


@dataclass(slots=True)
class Record:
    """Times are seconds since the start; `on_event` gets every line that is worth one.

    `ends`: when its time is up, once that is known.
    `ledger`: what transactions did to the keys that are wrong. `suspected`: a reported drift is yet to be judged.
    """

    on_event: Callable[[str], None] = lambda _: None
    checks: int = 0
    keys_compared: int = 0
    inconclusive: Counter[str] = field(default_factory=Counter)
    rests: int = 0
    rest_keys: int = 0
    faults: Counter[FaultKind] = field(default_factory=Counter)
    recoveries: defaultdict[FaultKind, list[float]] = field(default_factory=lambda: defaultdict(list))
    findings: list[Finding] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    marks: list[tuple[float, FaultKind]] = field(default_factory=list)
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_LAST))
    ledger: list[str] = field(default_factory=list)
    doing: str = ""
    suspected: bool = False
    ends: float | None = None
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Note an event."""
        self.events.append((self.seconds, text))
        self.on_event(text)

    def find(self, kind: FindingKind, text: str) -> None:
        """Note what is wrong."""
        self.findings.append(Finding(kind, text, self.seconds))
        self.say(f"{kind}: {text}")

    def undecided(self, reason: str) -> None:
        """Count a verification that could not be decided, by its reason without the numbers in it."""
        self.inconclusive[_NUMBERS.sub("N", reason)[:100] or "no reason"] += 1

    def fault(self, kind: FaultKind, began: float) -> None:
        """Count a fault that was injected, from when it began."""
        self.faults[kind] += 1
        self.marks.append((began, kind))

    def recovered(self, kind: FaultKind, seconds: float) -> None:
        """Note how long it took until all was well again."""
        self.recoveries[kind].append(seconds)
        self.say(f"{kind}: recovered after {seconds:.1f} s")

    def count(self, *kinds: FindingKind) -> int:
        """Return how many findings there are of some kinds."""
        return sum(finding.kind in kinds for finding in self.findings)
