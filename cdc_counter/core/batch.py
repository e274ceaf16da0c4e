"""Whole transactions folded into steps, each of which one script call applies.

A step starts where its predecessor ended, so the chain of `after` values is the chain of compare-and-sets. At rest a
step is one transaction; under load the transactions that wait are folded into one. A transaction that costs more than
`max_cost` (see Fold.cost) is cut into parts at row boundaries and applied while it still arrives: memory does not grow
with it, and it is certain to be committed, since PostgreSQL sends nothing else.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outbox import Deltas, Fold, Loss, without_zeros
from cdc_counter.core.recent import AppliedTransaction
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.core.xid import XID_LOW
from cdc_counter.errors import ProtocolError, ReseedNeededError

MOST_TOGETHER: Final = 4
"""How many steps' worth of transactions one step takes whose keys are the same."""

_SHORT_ROW: Final = 200
"""Bytes: a few deltas."""

_FOLDS: Final = 10_000
"""15 MB with three deltas each, as measured."""


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
        if self.completed == 1:
            self.fold = self.fold.copy()
        self.fold.add(fold)
        self.end_lsn = end_lsn
        self.cost += cost
        self.completed += 1


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
        # What short rows fold to, and its cost. Shared by transactions that are whole: nobody adds to them.
        self._folds: dict[bytes, tuple[Fold, int]] = {}

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
        if self._open is not None or self._skipping or self._resume is not None:
            return False
        if commit_lsn < self._start.lsn or end_lsn <= self._last_lsn:
            return False
        known = self._folds.get(text)
        if known is None:
            known = self._folded(text)
        fold, cost = known
        self._held_cost += cost
        self._wait(end_lsn, commit_time, fold, cost, AppliedTransaction(xid, end_lsn, fold.deltas, fold.keys))
        return True

    def _folded(self, text: bytes) -> tuple[Fold, int]:
        """Fold a row, and keep it if it is short: most are one more, or one less, of the same few."""
        fold = Fold()
        fold.add_row(text)
        known = fold, fold.cost
        if len(text) <= _SHORT_ROW:
            if len(self._folds) >= _FOLDS:
                self._folds.clear()
            self._folds[text] = known
        return known

    def _wait(
        self, end_lsn: Lsn, commit_time: float, fold: Fold, cost: int, applied: AppliedTransaction | None
    ) -> None:
        waiting = self._waiting
        # Transactions that change the same keys cost a script call no more than one of them; memory they do cost.
        if waiting is not None and (
            waiting.fold.cost + cost > self._max_cost or waiting.cost + cost > MOST_TOGETHER * self._max_cost
        ):
            self._close_waiting()
            waiting = None
        if waiting is None:
            waiting = self._waiting = _Waiting(end_lsn, commit_time, fold, cost, [])
        else:
            waiting.add(end_lsn, fold, cost)
        if applied is not None:
            waiting.transactions.append(applied)

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
