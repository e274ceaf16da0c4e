"""Reconcile: tally minus truth at one commit, as a pure function.

Deltas commute and have inverses: a tally that is wrong by d stays wrong by exactly d whatever follows, and adding -d
at any later time mends it. So a tally read at watermark W and a truth counted in a snapshot S, at another moment,
compare exactly once the transactions that the tally holds and S can't see are subtracted.
"""

from collections.abc import Mapping


def find_drift(
    tally: Mapping[str, int], truth: Mapping[str, int], hidden: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return, per bucket of one scope, `tally - truth - hidden` where that is not zero.

    `hidden` is the sum of the deltas that were applied to the tally and are not visible in the truth's snapshot.
    Absent buckets count as zero, on every side.
    """
    hidden = hidden or {}
    drift: dict[str, int] = {}
    for bucket in tally.keys() | truth.keys() | hidden.keys():
        difference = tally.get(bucket, 0) - truth.get(bucket, 0) - hidden.get(bucket, 0)
        if difference:
            drift[bucket] = difference
    return drift
