"""Whole transactions folded into steps, each of which one script call applies.

A step starts where its predecessor ended, so the chain of `after` values is the chain of compare-and-sets. At rest a
step is one transaction; under load the transactions that wait are folded into one. A transaction that costs more than
`max_cost` (see Fold.cost) is cut into parts at row boundaries and applied while it still arrives: memory does not grow
with it, and it is certain to be committed, since PostgreSQL sends nothing else.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import lt
from typing import Any, Final

from cdc_counter.core.frames import postgres_to_unix
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outbox import Deltas, Fold, Folded, Loss, without_zeros
from cdc_counter.core.recent import AppliedTransaction
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.core.xid import XID_LOW
from cdc_counter.errors import ProtocolError, ReseedNeededError

MOST_TOGETHER: Final = 4
"""How many steps' worth of transactions one step takes whose keys are the same."""

_SHORT_ROW: Final = 300
"""Bytes: a few deltas, also where scopes and buckets are UUIDs."""

_FOLDS: Final = 10_000
"""18 MB with three deltas each, as measured; 70 MB at the most, with as many as so short a row can hold."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one script call does: add `deltas`, move the watermark to `after`.

    `transactions` are for the ring of recent ones; `completed` counts those that end in this step, `entries` the
    outbox entries folded, `cost` what the step frees in the batcher. `commit_time` is the oldest commit's in unix
    seconds, None for a step that only moves the watermark.
    """

    after: Watermark
    deltas: Deltas = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    transactions: tuple[AppliedTransaction, ...] = ()
    completed: int = 0
    entries: int = 0
    cost: int = 0
    commit_time: float | None = None


@dataclass(slots=True)
class _Transaction:
    """A transaction that is arriving. `xid` is None until a row told it (64 bits)."""

    commit_time: float
    skip_rows: int = 0
    rows: int = 0
    xid: int | None = None
    fold: Fold = field(default_factory=Fold)
    in_parts: bool = False


@dataclass(slots=True)
class _Waiting:
    """Transactions that have arrived whole, added up. The first fold may be shared: it is copied before it grows."""

    end_lsn: Lsn
    commit_time: float
    fold: Fold
    cost: int
    transactions: list[AppliedTransaction]
    completed: int = 1

    def add(self, end_lsn: Lsn, fold: Fold, cost: int) -> None:
        """Take one more in."""
        self._grow(end_lsn, cost, 1)
        self.fold.add(fold)

    def add_rows(self, end_lsn: Lsn, rows: Sequence[Folded], cost: int) -> None:
        """Take more of them in, of one row each, the last of which ends there; they cost so much together."""
        self._grow(end_lsn, cost, len(rows))
        self.fold.add_rows(rows)

    def _grow(self, end_lsn: Lsn, cost: int, transactions: int) -> None:
        if self.completed == 1:
            self.fold = self.fold.copy()
        self.end_lsn = end_lsn
        self.cost += cost
        self.completed += transactions


class Batcher:
    """Turns begin/row/commit and idle positions into steps. `start` is the watermark found in Redis."""

    def __init__(self, start: Watermark, max_cost: int) -> None:
        self._start = start
        self._resume = start.partial
        self._max_cost = max_cost
        self._closed = start.lsn
        self._idle = start.lsn
        self._steps: deque[Step] = deque()
        self._waiting: _Waiting | None = None
        self._open: _Transaction | None = None
        self._skipping = False
        self._held_cost = 0
        # What short rows come to. Steps and the ring share it: nobody adds to it.
        self._folded: dict[bytes, Folded] = {}

    @property
    def ready_cost(self) -> int:
        """Keys held that `take` would give; those of the open transaction are bounded by themselves."""
        return self._held_cost - (self._open.fold.cost if self._open else 0)

    @property
    def oldest_commit_time(self) -> float | None:
        """Unix seconds of the oldest commit that no step taken so far holds; None when nothing waits."""
        if self._steps:
            return self._steps[0].commit_time
        if self._waiting:
            return self._waiting.commit_time
        return self._open.commit_time if self._open else None

    def begin(self, commit_lsn: Lsn, commit_time: float, xid_low: int) -> None:
        """Open a transaction; one that the watermark already includes is skipped whole."""
        # The watermark is a record's end, so a commit record that starts before it also ends at or before it.
        if commit_lsn < self._start.lsn:
            self._skipping = True
            return
        skip = 0
        if self._resume is not None:
            if self._resume.xid & XID_LOW != xid_low:
                raise ReseedNeededError(
                    f"transaction {self._resume.xid} is half applied ({self._resume.rows} rows), but transaction "
                    f"{xid_low} comes next at {commit_lsn}"
                )
            skip = self._resume.rows
        self._open = _Transaction(commit_time, skip_rows=skip, in_parts=skip > 0)

    def row(self, xid: int, text: bytes) -> None:
        """Add one outbox row of the open transaction; `xid` has 64 bits."""
        current = self._with_room()
        if current is None:
            return
        current.xid = xid
        current.rows += 1
        if current.rows > current.skip_rows:
            before = current.fold.cost
            current.fold.add_row(text)
            self._held_cost += current.fold.cost - before

    def loss(self, xid: int, loss: Loss) -> None:
        """Add a notice of loss in the open transaction. It is no row: one that comes twice does no harm.

        `xid` was worked out, so that one from a row goes before it.
        """
        current = self._with_room()
        # Among rows that were applied it was, too; their number must not be left behind by a cut.
        if current is None or current.rows < current.skip_rows:
            return
        if current.xid is None:
            current.xid = xid
        before = current.fold.cost
        current.fold.add_loss(loss)
        self._held_cost += current.fold.cost - before

    def commit(self, end_lsn: Lsn) -> None:
        """Close the open transaction at its end LSN."""
        if self._skipping:
            self._skipping = False
            return
        current = self._open
        if current is None:
            raise ProtocolError(f"commit ending at {end_lsn} outside a transaction")
        if end_lsn <= self._last_lsn:
            raise ProtocolError(f"commit ends at {end_lsn}, not after {self._last_lsn} of its predecessor")
        if current.rows < current.skip_rows:
            raise ReseedNeededError(
                f"transaction {current.xid} has {current.rows} rows, {current.skip_rows} were applied"
            )
        self._open = None
        self._resume = None
        fold, xid, in_parts = current.fold, current.xid, current.in_parts
        applied = None
        if xid is not None:
            # The ring keeps of a transaction in parts only that it was applied.
            kept = (None, 0) if in_parts else (fold.deltas, fold.keys)
            applied = AppliedTransaction(xid, end_lsn, *kept)
        if in_parts:
            self._close_waiting()
        self._wait(end_lsn, current.commit_time, fold, fold.cost, applied)
        if in_parts:
            self._close_waiting()

    def whole(self, commit_lsn: int, commit_time: float, xid: int, text: bytes, end_lsn: Lsn) -> bool:
        """Add a transaction of one row; `xid` has 64 bits. False where it has to be begun, and so on, as any other."""
        if not self._takes_whole(commit_lsn) or end_lsn <= self._last_lsn:
            return False
        if len(text) <= _SHORT_ROW:
            fold, cost, _ = self._fold(text)
        else:
            fold = Fold()
            fold.add_row(text)
            cost = fold.cost
        self._held_cost += cost
        self._wait(end_lsn, commit_time, fold, cost, AppliedTransaction(xid, end_lsn, fold.deltas, fold.keys))
        return True

    def together(
        self,
        commit_lsns: Sequence[int],
        commit_times: Sequence[int],
        xids: Sequence[int],
        texts: Sequence[bytes],
        end_lsns: Sequence[int],
    ) -> bool:
        """Add transactions of one row each, at least one, in columns; `commit_times` are as on the wire.

        False, and nothing is changed, where they have to be begun, and so on, as any other.
        """
        if not self._takes_whole(min(commit_lsns)) or not all(map(lt, (self._last_lsn, *end_lsns), end_lsns)):
            return False
        # A long row takes far longer than the messages around it.
        if max(map(len, texts)) > _SHORT_ROW:
            return False
        try:
            rows = self._all_folded(texts)
        except ProtocolError:
            return False
        folds, costs, _ = zip(*rows, strict=True)
        deltas, keys = [fold.deltas for fold in folds], [fold.keys for fold in folds]
        applied = list(map(AppliedTransaction._make, zip(xids, end_lsns, deltas, keys, strict=True)))
        sums = (0, *accumulate(costs))  # before each of them, and after all
        self._held_cost += sums[-1]
        at = 0
        while at < len(rows):
            # However many keys they share, so many fit; and if they share some, there is room again.
            until = at if self._waiting is None else bisect_right(sums, sums[at] + self._room(self._waiting)) - 1
            if self._waiting is None or until <= at:
                self._wait(Lsn(end_lsns[at]), postgres_to_unix(commit_times[at]), folds[at], costs[at], applied[at])
                at += 1
            else:
                self._waiting.add_rows(Lsn(end_lsns[until - 1]), rows[at:until], sums[until] - sums[at])
                self._waiting.transactions += applied[at:until]
                at = until
        return True

    def _takes_whole(self, commit_lsn: int) -> bool:
        idle = self._open is None and not self._skipping and self._resume is None
        return idle and commit_lsn >= self._start.lsn

    def _all_folded(self, texts: Sequence[bytes]) -> list[Folded]:
        rows: list[Any] = list(map(self._folded.get, texts))
        if None in rows:
            return [row or self._fold(text) for row, text in zip(rows, texts, strict=True)]
        return rows

    def _fold(self, text: bytes) -> Folded:
        """Fold a short row, and keep what it comes to: most are one more, or one less, of the same few."""
        known = self._folded.get(text)
        if known is not None:
            return known
        if len(self._folded) >= _FOLDS:
            self._folded.clear()
        folded = self._folded[text] = Folded.of(text)
        return folded

    def _room(self, waiting: _Waiting) -> int:
        """Return what a transaction may cost that is added to those that wait."""
        # Transactions that change the same keys cost a script call no more than one of them; memory they do cost.
        return min(self._max_cost - waiting.fold.cost, MOST_TOGETHER * self._max_cost - waiting.cost)

    def _wait(
        self, end_lsn: Lsn, commit_time: float, fold: Fold, cost: int, applied: AppliedTransaction | None
    ) -> None:
        if self._waiting is not None and cost > self._room(self._waiting):
            self._close_waiting()
        if self._waiting is None:
            self._waiting = _Waiting(end_lsn, commit_time, fold, cost, [])
        else:
            self._waiting.add(end_lsn, fold, cost)
        if applied is not None:
            self._waiting.transactions.append(applied)

    def idle(self, wal_end: Lsn) -> None:
        """Note a keepalive: outside a transaction, everything up to its position has been received."""
        if self._open is None and not self._skipping and self._resume is None:
            self._idle = max(self._idle, wal_end)

    @property
    def only_idle(self) -> bool:
        """Whether nothing waits but an idle position: a step would only move the watermark."""
        return self._idle > self._closed and self._waiting is None and not self._steps

    def take(self) -> Step | None:
        """Return the next step in commit order, or None when there is nothing to do."""
        if not self._steps:
            self._close_waiting()
        if self._steps:
            step = self._steps.popleft()
            self._held_cost -= step.cost
            return step
        if self._idle > self._closed:
            self._closed = self._idle
            return Step(Watermark(self._idle))
        return None

    def _with_room(self) -> _Transaction | None:
        """Return the open transaction, cut where it has grown too large; None where it is skipped."""
        if self._skipping:
            return None
        current = self._open
        if current is None:
            raise ProtocolError("outbox row outside a transaction")
        if current.fold.cost >= self._max_cost:
            self._close_part(current)
        return current

    @property
    def _last_lsn(self) -> Lsn:
        return self._closed if self._waiting is None else self._waiting.end_lsn

    def _close_waiting(self) -> None:
        """Fold every waiting transaction into one step; an idle position noted since moves along with them."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        self._closed = max(waiting.end_lsn, self._idle)
        self._steps.append(
            Step(
                after=Watermark(self._closed),
                deltas=without_zeros(waiting.fold.deltas),
                broken=dict(waiting.fold.broken),
                transactions=tuple(waiting.transactions),
                completed=waiting.completed,
                entries=waiting.fold.entries,
                cost=waiting.cost,
                commit_time=waiting.commit_time,
            )
        )

    def _close_part(self, current: _Transaction) -> None:
        """Cut the open transaction after the rows folded so far; what waited before it goes first."""
        self._close_waiting()
        assert current.xid is not None  # noqa: S101  # costs come from rows and notices, which set it
        self._closed = max(self._closed, self._idle)
        current.in_parts = True
        fold, current.fold = current.fold, Fold()
        self._steps.append(
            Step(
                after=Watermark(self._closed, Partial(current.xid, current.rows)),
                deltas=without_zeros(fold.deltas),
                broken=dict(fold.broken),
                # It counts as applied at the watermark that this part leaves, so that no comparison there overlooks it.
                transactions=(AppliedTransaction(current.xid, self._closed, None),),
                entries=fold.entries,
                cost=fold.cost,
                commit_time=current.commit_time,
            )
        )
