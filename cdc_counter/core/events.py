"""What long commands tell while they work: values only; how a line looks is the command line's business."""

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """What an event is, so that it can be shown as such."""

    CHECK = "check"
    """A condition was looked at and holds."""
    WARNING = "warning"
    STEP = "step"
    """Something was done."""
    WAITING = "waiting"
    """Nothing moves until somebody else does something; `title` or `detail` says who."""
    PROGRESS = "progress"
    """A long step goes on; `done` of `total`, where the total is known."""


@dataclass(frozen=True, slots=True)
class InitEvent:
    """One thing worth a line. Progress events of one step share their `title`."""

    kind: str
    title: str
    detail: str = ""
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `init` or `apply` ended with. `changed` counts the steps taken: 0 means that everything was in place."""

    changed: int
    counters: tuple[str, ...]
    seeded: tuple[str, ...] = ()
    epoch: str = ""
    removed: tuple[str, ...] = ()
