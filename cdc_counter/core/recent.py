"""The transactions that were applied lately: what a recount in an older snapshot can't see yet.

A tally at watermark W also holds transactions that a snapshot S does not see: commits that came after S, and commits
that were in the WAL (hence streamed) before they became visible. To compare tally and truth they are subtracted, so
their deltas are kept until some later snapshot sees them; from then on every newer snapshot does too.

Memory is bounded in two steps. Deltas beyond `max_deltas` are dropped, their transaction identifier stays: a snapshot
that does not see a forgotten transaction makes the comparison inconclusive, never wrong. So does a snapshot older than
the one that transactions were let go by: what is not here is visible to every snapshot from that one on, and only to
those.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outbox import Deltas
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.errors import InconclusiveError

_SPARE: Final = 16
"""This part of the memory is freed at a time: to look for the oldest takes as long as many were dropped before."""


class AppliedTransaction(NamedTuple):
    """One applied transaction. `deltas` None: too many to keep, or applied by an earlier process."""

    xid: int
    end_lsn: int
    deltas: Deltas | None
    keys: int = 0


@dataclass(slots=True)
class RecentTransactions:
    """Applied transactions not yet known to be visible to every new snapshot."""

    max_deltas: int
    _known: dict[int, AppliedTransaction] = field(default_factory=dict)
    _forgotten: dict[int, int] = field(default_factory=dict)
    _released_by: Snapshot | None = None
    _deltas: int = 0

    def add(self, transactions: Sequence[AppliedTransaction]) -> None:
        """Remember transactions; one that is redelivered replaces itself."""
        for transaction in transactions:
            if transaction.xid in self._known or transaction.xid in self._forgotten:
                self._drop(transaction.xid)
            if transaction.deltas is None:
                self._forgotten[transaction.xid] = transaction.end_lsn
            else:
                self._known[transaction.xid] = transaction
                self._deltas += transaction.keys
        if self._deltas > self.max_deltas:
            self._forget(self._deltas - self.max_deltas + self.max_deltas // _SPARE)

    def _forget(self, keys: int) -> None:
        """Drop the deltas of the oldest transactions that have so many keys."""
        oldest = []
        for xid, transaction in self._known.items():
            if keys <= 0:
                break
            keys -= transaction.keys
            oldest.append(xid)
        for xid in oldest:
            transaction = self._known.pop(xid)
            self._forgotten[xid] = transaction.end_lsn
            self._deltas -= transaction.keys

    def release(self, snapshot: Snapshot) -> None:
        """Let go of what the snapshot sees: newer snapshots see it too."""
        seen = [xid for xid in (*self._known, *self._forgotten) if snapshot.sees(xid)]
        for xid in seen:
            self._drop(xid)
        if seen and (self._released_by is None or snapshot.includes(self._released_by)):
            self._released_by = snapshot

    def touched(self, counter: int, since: Lsn) -> dict[str, set[str]]:
        """Return, by scope, the buckets of a counter that transactions held here changed.

        All that were applied after `since` are among them. Raises InconclusiveError when one of those is not held.
        """
        for xid, end_lsn in self._forgotten.items():
            # A transaction that is being applied in parts stands at its predecessor's end.
            if end_lsn >= since:
                raise InconclusiveError(f"transaction {xid} was applied meanwhile, and what it changed is not held")
        found: dict[str, set[str]] = {}
        for transaction in self._known.values():
            for (changed, scope), buckets in (transaction.deltas or {}).items():
                if changed == counter:
                    found.setdefault(scope, set()).update(buckets)
        return found

    def hidden_from(self, snapshot: Snapshot, until: Lsn) -> list[AppliedTransaction]:
        """Return the transactions applied up to `until` (inclusive) that the snapshot does not see.

        Raises InconclusiveError when one of them is known but its deltas are not, or when the snapshot is older than
        one that transactions were let go by.
        """
        if self._released_by is not None and not snapshot.includes(self._released_by):
            raise InconclusiveError("transactions that the snapshot may not see are no longer held: it is too old")
        for xid, end_lsn in self._forgotten.items():
            if end_lsn <= until and not snapshot.sees(xid):
                raise InconclusiveError(f"transaction {xid} was applied, is not in the snapshot, and is no longer held")
        return [t for t in self._known.values() if t.end_lsn <= until and not snapshot.sees(t.xid)]

    def __len__(self) -> int:
        return len(self._known) + len(self._forgotten)

    def _drop(self, xid: int) -> None:
        known = self._known.pop(xid, None)
        if known is not None:
            self._deltas -= known.keys
        self._forgotten.pop(xid, None)


def add_up(transactions: Iterable[AppliedTransaction], counter: int) -> Deltas:
    """Return the sum of one counter's deltas over some transactions."""
    total: Deltas = {}
    for transaction in transactions:
        for key, buckets in (transaction.deltas or {}).items():
            if key[0] != counter:
                continue
            sums = total.setdefault(key, {})
            for bucket, delta in buckets.items():
                sums[bucket] = sums.get(bucket, 0) + delta
    return total
