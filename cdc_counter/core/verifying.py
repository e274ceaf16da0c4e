"""When which counter is verified next.

Every counter gets an equal share of the time allowed: one whose recount takes long is compared less often. What was
noted in Redis survives a restart, so that the counters that waited longest come first.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """`share`: of the time, 0 to 1, spent on verifying; `interval`: seconds that at least lie between two of one."""

    share: float
    interval: float

    def due(self, last: "LastCheck | None", counters: int) -> float:
        """Return the unix second from which a counter, one of so many, is to be verified again."""
        if last is None:
            return 0.0
        return last.at + max(self.interval, last.seconds * counters / self.share)


@dataclass(frozen=True, slots=True)
class LastCheck:
    """When a counter's last verification ended (unix seconds), and how many seconds it took."""

    at: float
    seconds: float


def next_due(counters: Collection[str], last: Mapping[str, LastCheck], pace: Pace) -> tuple[str, float] | None:
    """Return the counter to be verified next and from when (unix seconds); None when there is none."""
    due = [(pace.due(last.get(name), len(counters)), name) for name in counters]
    if not due:
        return None
    at, name = min(due)
    return name, at
