"""Applies steps to Redis, one at a time, until each is answered for.

Owns what an answer means: a lost reply is asked again with the same arguments, a conflict ends the session, a value
that can't take its delta puts its counter aside and leaves the others alone. Between two steps it lets others in:
whoever needs the tallies to stand still at one watermark.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

from cdc_counter import failpoints
from cdc_counter.core.batch import Step
from cdc_counter.core.counters import CounterRecord, Route, route_of
from cdc_counter.core.lifecycle import Loss, LostError
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outbox import RETIRED
from cdc_counter.core.outcome import Applied, Conflict, Move, OtherEpoch, Outcome, TallyGroup, Unfit
from cdc_counter.core.progress import Progress
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import CdcCounterError, UnreachableError
from cdc_counter.failpoints import Failpoint
from cdc_counter.metrics import Metrics
from cdc_counter.runtime.backoff import Backoff
from cdc_counter.runtime.edges import Tallies
from cdc_counter.runtime.lineage import Lineage

_log = logging.getLogger(__name__)

T = TypeVar("T")


class SupersededError(CdcCounterError):
    """Somebody else moved the watermark or began an epoch; the state on both sides is to be looked at again."""

    retry = True


@dataclass(slots=True)
class _Visitor:
    """Somebody who waits for a moment between two steps, at or after `lsn`."""

    lsn: Lsn
    act: Callable[[], Awaitable[Any]]
    done: "asyncio.Future[Any]"


class Applier:
    """One session's applying side. `records` is shared with whoever changes the counters' states."""

    def __init__(
        self,
        tallies: Tallies,
        lineage: Lineage,
        progress: Progress,
        records: dict[str, CounterRecord],
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._tallies = tallies
        self.lineage = lineage
        self._progress = progress
        self._records = records
        self._by_id: dict[int, CounterRecord] = {}
        self._metrics = metrics
        self._now = now
        self._visitors: deque[_Visitor] = deque()
        self.in_flight: Step | None = None
        self.transactions = 0
        self.deltas = 0
        self.cycle_seconds = 0.0
        self.last_applied_at = now()
        self._index()

    async def apply(self, step: Step) -> None:
        """Apply one step; returns when Redis holds it. Raises SupersededError when it must not be applied here."""
        self.in_flight = step
        started = time.perf_counter()
        lineage = self.lineage
        if any(counter not in self._by_id for counter, _ in step.deltas):
            await self._adopt_unknown()
        # Before the step: it comes only once, and a counter that is stale too early does no harm.
        for counter, reason in step.broken.items():
            await self._capture_broke(counter, reason)
        note = lineage.remember(step.transactions)
        surplus = lineage.surplus_notes
        before, after = lineage.watermark, step.after
        moves = [
            Move("watermark", before.lsn.version, after.lsn.version),
            Move("partial", before.partial_text, after.partial_text),
        ]
        while True:
            groups = self._groups(step)
            outcome = await self._answered(moves, groups, note, surplus)
            if isinstance(outcome, Unfit):
                await self._put_aside(outcome)
                continue
            break
        require_applied(outcome)
        lineage.noted(note, surplus)
        lineage.watermark = after
        self._progress.apply(after.lsn)
        self.in_flight = None
        self._count(step, time.perf_counter() - started)
        for counter in step.broken:
            lineage.capture_broke(counter, step.transactions)

    async def _answered(self, moves: list[Move], groups: list[TallyGroup], note: str, surplus: int) -> Outcome:
        backoff = Backoff(0.02, 2.0)
        while True:
            try:
                # Only where deltas could be lost or doubled; most steps of a quiet stream just move the watermark.
                if groups:
                    failpoints.reach(Failpoint.BEFORE_APPLY)
                outcome = await self._tallies.apply(
                    self.lineage.epoch.identity, moves, groups, note=note, surplus_notes=surplus
                )
                if groups:
                    failpoints.reach(Failpoint.AFTER_APPLY)
            except UnreachableError as error:
                self._metrics.reconnects.labels("redis").inc()
                _log.warning("%s; trying again", error)
                await backoff.wait()
            else:
                return outcome

    def _groups(self, step: Step) -> list[TallyGroup]:
        activated = frozenset(self.lineage.activated)
        groups = []
        for (counter, scope), deltas in step.deltas.items():
            record = self._by_id.get(counter)
            route = route_of(record, activated)
            if record is not None and route is not Route.NOWHERE:
                groups.append(TallyGroup(record.name, scope, deltas, hidden=route is Route.HIDDEN))
        return groups

    def _count(self, step: Step, seconds: float) -> None:
        self.transactions += step.completed
        self.deltas += step.entries
        # An exponential mean over about the last ten batches.
        self.cycle_seconds += (seconds - self.cycle_seconds) / 10
        self.last_applied_at = self._now()
        self._metrics.transactions.inc(step.completed)
        self._metrics.deltas.inc(step.entries)
        self._metrics.batches.inc()
        self._metrics.cycle_seconds.observe(seconds)

    async def change(self, record: CounterRecord, *, seed: str = "") -> None:
        """Write a counter's record to Redis and act by it from the next step on.

        `seed` not empty: only if this is still the mark in its seed's journal. Raises SupersededError when the counter
        was altered or removed meanwhile, or its seed taken over; then that is what is acted by.
        """
        outcome = await self._written(record, seed)
        if isinstance(outcome, Conflict):
            await self.adopt()
            raise SupersededError(f"counter {record.name} was altered or removed meanwhile")
        require_applied(outcome)
        self._records[record.name] = record
        self._index()

    async def _written(self, record: CounterRecord, seed: str) -> Outcome:
        """Return the answer, however often it has to be asked for: what Redis has must be what is acted by."""
        backoff = Backoff(0.02, 2.0)
        while True:
            try:
                outcome = await self._tallies.set_counter(self.lineage.epoch.identity, record, seed=seed)
                failpoints.reach(Failpoint.COUNTER_WRITTEN)
            except UnreachableError as error:
                _log.warning("%s; trying again", error)
                await backoff.wait()
            else:
                return outcome

    def _index(self) -> None:
        self._by_id = {record.id: record for record in self._records.values()}

    async def adopt(self) -> None:
        """Take up counters that another process installed or removed; states that were changed here stay."""
        stored = await self._tallies.counters()
        for name, record in stored.items():
            mine = self._records.get(name)
            if mine is None or mine.id != record.id:
                self._let_go(name)
                self._records[name] = record
        for name in [name for name in self._records if name not in stored]:
            self._let_go(name)
        self._index()

    def _let_go(self, name: str) -> None:
        """Forget a counter; a seed of it that is under way counts for nothing any more."""
        old = self._records.pop(name, None)
        if old is not None:
            self.lineage.activated.discard(old.id)

    async def _adopt_unknown(self) -> None:
        try:
            await self.adopt()
        except UnreachableError as error:
            # Their deltas stay in the ring, which is what their seed starts from.
            _log.info("unknown counters in the stream: %s", error)

    async def _put_aside(self, unfit: Unfit) -> None:
        record = self._records.get(unfit.group.counter) if unfit.group else None
        reason = f"redis key {unfit.key!r} field {unfit.bucket!r}: {unfit.reason}"
        if record is None:
            raise LostError(Loss.TALLIES_DAMAGED, reason)
        self.lineage.activated.discard(record.id)
        _log.error("counter %s is put aside until it is rebuilt: %s", record.name, reason)
        with contextlib.suppress(SupersededError):
            await self.change(record.moved_to(CounterState.STALE, self._now(), reason, quarantined=True))

    async def _capture_broke(self, counter: int, reason: str) -> None:
        record = self._by_id.get(counter)
        if record is None:
            return
        if reason.startswith(RETIRED):
            # Whoever did it is about to say what it is now; until then its last numbers are marked.
            if not record.awaits_seed:
                with contextlib.suppress(SupersededError):
                    await self.change(record.moved_to(CounterState.REBUILDING, self._now()))
            return
        self._metrics.broken_counters.labels(record.name).inc()
        if record.state is CounterState.LIVE:
            _log.error("counter %s is stale: its capture failed: %s", record.name, reason)
            with contextlib.suppress(SupersededError):
                await self.change(record.moved_to(CounterState.STALE, self._now(), f"capture failed: {reason}"))

    @property
    def has_company(self) -> bool:
        """Whether somebody waits, if only for a position that is not reached yet."""
        return bool(self._visitors)

    @property
    def has_visitor(self) -> bool:
        """Whether somebody waits who could be let in now."""
        return any(self._may_enter(visitor) for visitor in self._visitors)

    async def between_steps(self, lsn: Lsn, act: Callable[[], Awaitable[T]], wake: Callable[[], None]) -> T:
        """Run `act` once everything up to `lsn` is applied, while no step is; returns what it returns."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._visitors.append(_Visitor(lsn, act, done))
        wake()
        return await done

    async def let_in(self) -> None:
        """Serve those who wait, one after the other. An error is theirs, not the session's."""
        for visitor in [visitor for visitor in self._visitors if self._may_enter(visitor)]:
            self._visitors.remove(visitor)
            try:
                result = await visitor.act()
            except CdcCounterError as error:
                if not visitor.done.done():
                    visitor.done.set_exception(error)
            except asyncio.CancelledError:
                # The session ends in the middle of it. Nobody else would tell whoever waits.
                if not visitor.done.done():
                    visitor.done.set_exception(SupersededError("the session ended"))
                raise
            else:
                if not visitor.done.done():
                    visitor.done.set_result(result)

    def turn_away(self, error: CdcCounterError) -> None:
        """Tell everybody who waits that this session is over."""
        while self._visitors:
            done = self._visitors.popleft().done
            if not done.done():
                done.set_exception(error)

    def _may_enter(self, visitor: _Visitor) -> bool:
        watermark = self.lineage.watermark
        return watermark.partial is None and watermark.lsn >= visitor.lsn


def require_applied(outcome: Outcome) -> None:
    """Raise what an outcome means that is not Applied."""
    match outcome:
        case Applied():
            return
        case Conflict(field, stored):
            raise SupersededError(f"redis holds {field} {stored!r}: another consumer applied, or Redis went back")
        case OtherEpoch(stored):
            raise SupersededError(f"redis holds epoch {stored!r}: tallies were lost or begun anew")
        case Unfit(key, bucket, reason, _):
            raise CdcCounterError(f"redis key {key!r} field {bucket!r}: {reason}")
        case _:
            assert_never(outcome)
