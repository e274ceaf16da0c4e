"""Which fault comes when. Pure: the seed fixes kinds, durations and pauses, though not what they meet."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final


class FaultKind(StrEnum):
    """What is done to the deployment."""

    DAEMON_KILL = "daemon_kill"
    DAEMON_STOP = "daemon_stop"
    DAEMON_TERM = "daemon_term"
    POSTGRES_KILL = "postgres_kill"
    POSTGRES_RESTART = "postgres_restart"
    POSTGRES_STOP = "postgres_stop"
    WALSENDER_STOP = "walsender_stop"
    WALSENDER_TERMINATE = "walsender_terminate"
    REDIS_KILL = "redis_kill"
    REDIS_STOP = "redis_stop"
    REDIS_RESTART = "redis_restart"
    SCRIPT_FLUSH = "script_flush"
    LINK_POSTGRES_CUT = "link_postgres_cut"
    LINK_POSTGRES_STALL = "link_postgres_stall"
    LINK_REDIS_CUT = "link_redis_cut"
    LINK_REDIS_STALL = "link_redis_stall"
    LINK_REDIS_LOST_REPLY = "link_redis_lost_reply"
    FLUSHALL = "flushall"
    SLOT_DROP = "slot_drop"
    REDIS_RESTORE_OLDER = "redis_restore_older"


REBUILDING: Final = frozenset({FaultKind.FLUSHALL, FaultKind.SLOT_DROP, FaultKind.REDIS_RESTORE_OLDER})
"""After these every number has to be counted again."""

GROUPS: Final = {
    "all": frozenset(FaultKind),
    "none": frozenset[FaultKind](),
    "passing": frozenset(FaultKind) - REBUILDING,
    "rebuilding": REBUILDING,
}
_TOGETHER: Final = 0.2
"""The share of faults that another one follows at once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`pause` seconds after the recovery from the one before, for `seconds` where it is one that lasts."""

    kind: FaultKind
    pause: float
    seconds: float
    number: int


def schedule(kinds: Collection[FaultKind], seed: int, mean_pause: float) -> Iterator[tuple[Fault, ...]]:
    """Yield faults for ever, mostly one by one; every kind comes once before one comes again.

    Of those that come together, the second meets whatever the first has left behind.
    """
    random = Random(f"{seed} faults")
    order = sorted(kinds)
    while order:
        random.shuffle(order)
        coming = list(order)
        while coming:
            count = 2 if len(coming) > 1 and random.random() < _TOGETHER else 1
            some, coming = coming[:count], coming[count:]
            pauses = (random.uniform(0.2, 1.8) * mean_pause, random.uniform(0.0, 1.5))
            yield tuple(
                Fault(kind, pause, random.uniform(0.3, 4.0), random.randrange(10_000))
                for kind, pause in zip(some, pauses, strict=False)
            )


def kinds_of(text: str) -> frozenset[FaultKind]:
    """Read a comma-separated list of kinds and groups; raises ValueError naming what is neither."""
    chosen: set[FaultKind] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        chosen |= GROUPS[word] if word in GROUPS else {FaultKind(word)}
    return frozenset(chosen)
