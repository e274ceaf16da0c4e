"""The names of everything kept in Redis. Scopes stand last, so that any text is safe in them."""

from dataclasses import dataclass
from typing import Final

REPORT_TTL: Final = 3600
"""Seconds that the last report stays readable after its consumer is gone: long enough to see why."""

_GLOB: Final = str.maketrans({character: f"\\{character}" for character in "*?[]\\"})


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix. On a Redis Cluster the prefix must hold a {hash tag}."""

    prefix: str

    @property
    def meta(self) -> str:
        """Hash: epoch and what identifies it, watermark, partial, sequence."""
        return f"{self.prefix}:meta"

    @property
    def counters(self) -> str:
        """Hash: counter name -> its record as JSON."""
        return f"{self.prefix}:counters"

    @property
    def feed(self) -> str:
        """Stream of changed values; ids are consecutive numbers, so that a gap shows."""
        return f"{self.prefix}:feed"

    @property
    def recent(self) -> str:
        """List: identifiers of applied transactions that may still be invisible to a new snapshot."""
        return f"{self.prefix}:recent"

    @property
    def status(self) -> str:
        """String: the consumer's last report as JSON."""
        return f"{self.prefix}:status"

    @property
    def verified(self) -> str:
        """Hash: counter name -> its last verification as JSON."""
        return f"{self.prefix}:verified"

    @property
    def repairs(self) -> str:
        """Stream: the journal of repairs, with who asked and every old and new value."""
        return f"{self.prefix}:repairs"

    @property
    def requests(self) -> str:
        """List: what is asked of the running consumer."""
        return f"{self.prefix}:requests"

    def answers(self, request: str) -> str:
        """List: what it answers; gone soon after the last one."""
        return f"{self.prefix}:answers:{request}"

    def tally(self, counter: str, scope: str) -> str:
        """Hash: bucket -> integer, zero fields absent."""
        return f"{self.prefix}:tally:{counter}:{scope}"

    def hidden(self, counter: str, scope: str) -> str:
        """Hash: the same while the counter is seeded, where no reader looks."""
        return f"{self.prefix}:seeding:{counter}:{scope}"

    def all_tallies(self, counter: str, *, hidden: bool = False) -> str:
        """Return the SCAN pattern of a counter's tallies."""
        kind = "seeding" if hidden else "tally"
        return f"{self.prefix.translate(_GLOB)}:{kind}:{counter}:*"

    def single(self) -> tuple[str, ...]:
        """Return the keys of which there is one each."""
        return (
            self.meta, self.counters, self.feed, self.recent, self.status, self.verified, self.repairs, self.requests,
        )  # fmt: skip

    def every_tally(self) -> tuple[str, str]:
        """Return the SCAN patterns of all tallies, hidden ones too; nothing of a prefix that starts like ours."""
        start = self.prefix.translate(_GLOB)
        return f"{start}:tally:*", f"{start}:seeding:*"
