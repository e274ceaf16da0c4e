"""One page of health: what `cdc-counter status` shows and what its exit code says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cdc_counter.core.finding import Finding, Severity
from cdc_counter.core.reading import CounterInfo, CounterState, VerifiedAt
from cdc_counter.core.status import StreamStatus


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What is known at `taken_at` (unix seconds). `not_ready` is core.status.readiness of `stream`.

    `verified` has the counters that were found equal to a recount since they became what they are.
    """

    taken_at: float
    not_ready: str | None
    stream: StreamStatus | None
    counters: tuple[CounterInfo, ...]
    findings: tuple[Finding, ...] = ()
    verified: Mapping[str, VerifiedAt] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """True when numbers move and none is known to be wrong; a counter still being seeded is not ill."""
        return (
            self.not_ready is None
            and all(counter.state is not CounterState.STALE for counter in self.counters)
            and all(finding.severity is not Severity.ERROR for finding in self.findings)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plain dict that `status --json` prints."""
        return {"healthy": self.healthy, **asdict(self)}
