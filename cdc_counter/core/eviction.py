"""Whether Redis may have evicted tallies, decided from what its INFO says.

Ours never expire, so that only the allkeys policies touch them. Nobody tells which keys were evicted, only how many
since the server started: each rise under such a policy counts as damage. What was seen when the tallies were whole is
kept beside them, so that it is compared after a restart of either side as well.
"""

from dataclasses import dataclass
from typing import Final, Self

REMEDY: Final = "CONFIG SET maxmemory-policy noeviction    # and maxmemory-policy noeviction in redis.conf"

_QUIET_SECONDS: Final = 30.0
"""A server that may evict and has not for so long has room: a recount that comes too early is evicted again."""


@dataclass(frozen=True, slots=True)
class Evictions:
    """One look: `run` is new with each start of the server, `count` of keys evicted since, `policy` the present one."""

    run: str
    count: int
    policy: str

    @property
    def may_strike(self) -> bool:
        """Whether tallies may be evicted from now on."""
        return self.policy.startswith("allkeys")

    @property
    def text(self) -> str:
        """As it is kept beside the tallies."""
        return f"{self.run} {self.count} {self.policy}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read back what `text` gave; raises ValueError on anything else."""
        run, count, policy = text.split(" ")
        return cls(run, int(count), policy)

    def damage_since(self, before: "Evictions | None") -> str:
        """Return why tallies that were whole at `before` may not be any more; '' when they are.

        Without `before` nothing is known against them.
        """
        if before is None:
            return ""
        striking = next((look.policy for look in (self, before) if look.may_strike), "")
        unbroken = self.run == before.run and self.count >= before.count
        if striking and not unbroken:
            # What the run before evicted at last went with its count.
            return f"redis was restarted or replaced under maxmemory-policy {striking}, and may have evicted tallies"
        evicted = self.count - before.count if unbroken else self.count
        if evicted == 0 or (not striking and "volatile" in self.policy + before.policy):
            return ""
        # Where neither policy evicts anything there was another one in between.
        under = f"under maxmemory-policy {striking}" if striking else "while nobody looked"
        return f"redis evicted {evicted} keys {under}, and tallies may be among them"

    def calm(self, quiet_seconds: float) -> bool:
        """Say whether tallies that are counted now will stay; `quiet_seconds` is how long nothing has been evicted."""
        return not self.may_strike or self.count == 0 or quiet_seconds >= _QUIET_SECONDS
