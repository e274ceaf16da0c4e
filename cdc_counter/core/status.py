"""The consumer's account of itself, written to Redis about once a second and read by every face.

One path for all readers: `/readyz`, `/metrics` of a gateway apart, `cdc-counter status`. Health means progress, not
liveness: a process that runs but moves nothing is not ready.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

STALE_REPORT_SECONDS = 10.0
"""A report older than this counts as none: ten missed reports."""

STUCK_SECONDS = 30.0
"""Without progress for this long while there is work, the consumer is stuck; Redis or PostgreSQL restarts take less."""


class Phase(StrEnum):
    """What the consumer is doing."""

    CONNECTING = "connecting"
    WAITING_FOR_SLOT = "waiting for slot"
    REBUILDING = "rebuilding"
    STREAMING = "streaming"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One report. LSNs are in PostgreSQL's text form; times are unix seconds; `progress_age` and `lag` are seconds.

    `lag` is the age of the oldest commit that is received or known but not applied; `backlog` the WAL bytes between
    the applied position and the server's end of WAL; `retained_wal` the bytes the slot makes the server keep.
    `unconfirmed` is for how long applied commits have waited to be as durable as redis.confirm asks; `confirm_fault`
    says why they are not.
    """

    pid: int
    host: str
    started_at: float
    reported_at: float
    phase: Phase
    detail: str
    slot: str
    epoch: str
    received: str
    applied: str
    confirmed: str
    lag: float
    backlog: int
    retained_wal: int | None
    wal_status: str | None
    transactions: int
    deltas: int
    cycle_seconds: float
    progress_age: float
    unconfirmed: float = 0.0
    confirm_fault: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the plain dict that is stored as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "StreamStatus":
        """Read back what `to_json` gave; raises TypeError or ValueError on foreign data."""
        return cls(**{**data, "phase": Phase(data["phase"])})


def readiness(status: StreamStatus | None, now: float) -> str | None:
    """Return why readers should not trust progress right now, or None when all is well. `now` is unix seconds."""
    if status is None:
        return "no consumer reports"
    age = now - status.reported_at
    if age > STALE_REPORT_SECONDS:
        return f"the consumer's last report is {age:.0f} s old"
    if status.phase is not Phase.STREAMING:
        return (
            f"the consumer is {status.phase}: {status.detail}" if status.detail else f"the consumer is {status.phase}"
        )
    if status.progress_age > STUCK_SECONDS:
        return f"the consumer has made no progress for {status.progress_age:.0f} s"
    return None
