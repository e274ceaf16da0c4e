"""When what Redis has applied may be confirmed to the slot: the policy, and what its answers mean.

Confirmed WAL is gone for ever. What survives a loss of Redis data that came later is what the policy is about; that
such a loss is noticed and mended never depends on it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Policy(StrEnum):
    """When a commit counts as safe in Redis."""

    APPLIED = "applied"
    REPLICATED = "replicated"
    FSYNCED = "fsynced"


@dataclass(frozen=True, slots=True)
class NotKept:
    """The policy can't be kept now, and why: nothing is confirmed until it can."""

    reason: str


def judge_replicas(policy: Policy, replicas: int, answer: int | list[int], seconds: float) -> NotKept | None:
    """Return what the answer of WAIT (a number) or WAITAOF (local, replicas) lacks; None when it is enough."""
    waited = f"within {seconds:g} s"
    match policy, answer:
        case Policy.APPLIED, _:
            return None
        case Policy.REPLICATED, int(got):
            return NotKept(f"{got} of {replicas} replicas had it {waited}") if got < replicas else None
        case Policy.FSYNCED, [int(local), int(got)]:
            if local < 1:
                return NotKept(f"the append-only file was not synced to disk {waited}")
            return NotKept(f"{got} of {replicas} replicas had it on disk {waited}") if got < replicas else None
        case Policy.REPLICATED | Policy.FSYNCED, _:
            return NotKept(f"an answer of another kind: {answer!r}")
        case never:
            assert_never(never[0])
