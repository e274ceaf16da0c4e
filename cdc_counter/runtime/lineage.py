"""What one process knows because it applied every step itself, in one unbroken row.

The ring of recent transactions and the set of activated seeds are worth something only as long as nobody else moved
the watermark. A lineage ends when Redis shows another epoch or watermark than the last one applied here; a new one
starts from the notes that every step leaves in Redis, so that the horizon stays exact across processes.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cdc_counter.core.lifecycle import Epoch
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.recent import AppliedTransaction, RecentTransactions
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.core.watermark import Watermark
from cdc_counter.errors import InconclusiveError


@dataclass(slots=True)
class Lineage:
    """`activated`: counters awaiting their seed whose snapshot is fixed, so that their deltas count from it on."""

    epoch: Epoch
    watermark: Watermark
    recent: RecentTransactions
    activated: set[int] = field(default_factory=set)
    _broken: dict[int, set[int]] = field(default_factory=dict)
    _notes: deque[tuple[int, ...]] = field(default_factory=deque)
    _snapshot: Snapshot | None = None
    _holders: int = 0
    _waiting: Snapshot | None = None

    @classmethod
    def from_notes(cls, epoch: Epoch, watermark: Watermark, max_deltas: int, notes: Iterable[str]) -> "Lineage":
        """Start where another process stopped: its transactions are known to exist, their deltas are not."""
        lineage = cls(epoch, watermark, RecentTransactions(max_deltas))
        for note in notes:
            xids = tuple(int(xid) for xid in note.split() if xid.isdigit())
            lineage._notes.append(xids)
            lineage.recent.add([AppliedTransaction(xid, watermark.lsn, None) for xid in xids])
        return lineage

    def continues(self, epoch: Epoch, watermark: Watermark) -> bool:
        """Say whether Redis shows exactly what this process left."""
        return self.epoch == epoch and self.watermark == watermark

    def remember(self, transactions: Sequence[AppliedTransaction]) -> str:
        """Add a step's transactions; returns the note that the step leaves in Redis ('' for none)."""
        self.recent.add(transactions)
        return " ".join([str(transaction.xid) for transaction in transactions])

    def capture_broke(self, counter: int, transactions: Iterable[AppliedTransaction]) -> None:
        """Note that one of these transactions lacks the counter's deltas; a seed under way has to start again."""
        self.activated.discard(counter)
        self._broken.setdefault(counter, set()).update(t.xid for t in transactions)

    def unseen(self, snapshot: Snapshot, counter: int, until: Lsn | None = None) -> list[AppliedTransaction]:
        """Return transactions applied up to `until` (None: now) that the snapshot does not see.

        Raises InconclusiveError when that is unknown.
        """
        if not all(snapshot.sees(xid) for xid in self._broken.get(counter, ())):
            raise InconclusiveError("a transaction whose deltas could not be computed is not in the snapshot yet")
        return self.recent.hidden_from(snapshot, self.watermark.lsn if until is None else until)

    def noted(self, note: str, removed: int) -> None:
        """Follow what a step did to the list in Redis."""
        if note:
            self._notes.append(tuple(map(int, note.split())))
        for _ in range(removed):
            self._notes.popleft()

    @property
    def has_seen_a_snapshot(self) -> bool:
        """Whether anything can be let go of while somebody compares."""
        return self._snapshot is not None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let nothing go meanwhile: a snapshot taken inside can be compared, however many newer ones are seen."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if self._waiting is not None:
                self.release(self._waiting)

    def release(self, snapshot: Snapshot) -> None:
        """Let go of transactions that every new snapshot sees.

        While somebody compares with an older one only of those that the last snapshot before he began sees: his is a
        newer one than that. Where a long backlog is applied meanwhile those are nearly all.
        """
        if self._holders:
            # Whoever compares next takes a newer snapshot than this one: one after the other must not starve it.
            self._waiting = snapshot
            if self._snapshot is None:
                return
            snapshot = self._snapshot
        else:
            self._waiting = None
        self.recent.release(snapshot)
        for counter, xids in list(self._broken.items()):
            xids.difference_update([xid for xid in xids if snapshot.sees(xid)])
            if not xids:
                del self._broken[counter]
        self._snapshot = snapshot

    @property
    def surplus_notes(self) -> int:
        """How many of the oldest notes tell nothing any more."""
        if self._snapshot is None:
            return 0
        count = 0
        for xids in self._notes:
            if not all(self._snapshot.sees(xid) for xid in xids):
                break
            count += 1
        return count
