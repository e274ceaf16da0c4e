"""Reconcile: tallies minus truth at one commit, as a pure value.

Deltas commute and have inverses: a tally that is wrong by d stays wrong by exactly d whatever follows, and adding -d
at any later time mends it. So a tally read at watermark W and a truth counted in a snapshot S, at another moment,
compare exactly once the transactions that the tally holds and S can't see (the hidden ones) are subtracted. Tallies
may be read in any number of pieces, each with a watermark and hidden transactions of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KeyDrift:
    """One wrong key. `tally` is what the snapshot should have shown: the hidden transactions are subtracted already."""

    scope: str
    bucket: str
    tally: int
    truth: int

    @property
    def difference(self) -> int:
        """The drift: what the tally has too much."""
        return self.tally - self.truth


@dataclass(slots=True)
class Comparison:
    """Takes all tallies, then all truth. What is neither is zero on that side; `keys` counts what is not on both."""

    keys: int = 0
    _left: dict[str, dict[str, int]] = field(default_factory=dict)
    _wrong: dict[tuple[str, str], int] = field(default_factory=dict)

    def add_tally(
        self, scope: str, values: Mapping[str, int], hidden: Mapping[str, int], *, whole: bool = True
    ) -> None:
        """Take what was read of one hash; a bucket that is read again replaces itself.

        `hidden` is the sum of the deltas that were applied when it was read and are not visible in the truth's
        snapshot. `whole`: buckets that are not in `values` are zero; otherwise nothing is known of them.
        """
        left = self._left.setdefault(scope, {})
        for bucket in values.keys() | hidden.keys() if whole else values.keys():
            before = left.pop(bucket, 0)
            value = values.get(bucket, 0) - hidden.get(bucket, 0)
            if value:
                left[bucket] = value
            self.keys += bool(value) - bool(before)

    def add_truth(self, rows: Iterable[tuple[str, str, int]]) -> None:
        """Take counted rows of (scope, bucket, value)."""
        for scope, bucket, value in rows:
            buckets = self._left.setdefault(scope, {})
            key = (scope, bucket)
            if bucket not in buckets and key not in self._wrong:
                self.keys += 1
            left = buckets.pop(bucket, 0) - value
            truth = self._wrong.pop(key, 0) + value
            if left:
                buckets[bucket] = left
                self._wrong[key] = truth

    def drift(self) -> list[KeyDrift]:
        """Return every key whose tally is not the truth, in the order of scope and bucket."""
        found = []
        for scope, buckets in self._left.items():
            for bucket, difference in buckets.items():
                truth = self._wrong.get((scope, bucket), 0)
                found.append(KeyDrift(scope, bucket, truth + difference, truth))
        return sorted(found, key=lambda key: (key.scope, key.bucket))


def confirmed(first: Iterable[KeyDrift], second: Iterable[KeyDrift]) -> list[KeyDrift]:
    """Return what two comparisons agree on: drift stays exactly the same until it is repaired."""
    known = {(key.scope, key.bucket, key.difference) for key in first}
    return [key for key in second if (key.scope, key.bucket, key.difference) in known]
