"""The consumer: one session after the other, each begun by the start-up decision, until told to stop.

Owns when to connect again and what the process knows across sessions. Everything that can be retried is, for ever,
with jittered pauses; what can't be continued without risking a wrong number ends it with a typed error.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from cdc_counter.core.assembly import Assembly
from cdc_counter.core.batch import Batcher
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.fuse import Fuse
from cdc_counter.core.lifecycle import (
    Action,
    Loss,
    LostError,
    ServerFacts,
    Stored,
    decide,
    loss_of,
    recheck_after_start,
)
from cdc_counter.core.lsn import ZERO, Lsn
from cdc_counter.core.outcome import Applied, Move
from cdc_counter.core.progress import Progress
from cdc_counter.core.reading import CounterState
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.core.status import Phase
from cdc_counter.core.stuck import Stuck
from cdc_counter.errors import BusyError, CdcCounterError, ReseedNeededError, UndecodableError, UnreachableError
from cdc_counter.metrics import Metrics
from cdc_counter.runtime.applier import Applier, SupersededError
from cdc_counter.runtime.backoff import Backoff, pause
from cdc_counter.runtime.confirmation import Confirmation
from cdc_counter.runtime.edges import Durability, Observer, Stream, Tallies
from cdc_counter.runtime.evictions import EvictionGuard
from cdc_counter.runtime.failures import in_own_task, unless_stopped
from cdc_counter.runtime.lineage import Lineage
from cdc_counter.runtime.session import Session

_log = logging.getLogger(__name__)

T = TypeVar("T")

_RECENT_DELTAS: Final = 500_000
"""Deltas of recent transactions kept for comparisons: about 100 MB at worst; released within about a second."""

_STANDBY_PAUSE: Final = 0.4
"""Seconds between looks at a slot that another consumer streams: a stand-by takes over within a second or so."""

_SETTLED_SECONDS: Final = 5.0
"""A session that lasted this long was no failed attempt: the pauses start again from the shortest."""

_MOST_REBUILDS: Final = 10
"""In a row, none of which brought the counters back: about three minutes, with the pauses between them."""


class Rebuild(Protocol):
    """Begins a new epoch."""

    async def __call__(self, loss: Loss, reason: str, seen: Stored | None, show: Callable[[str], None]) -> None:
        """Replace the epoch of `seen`; `show` is told who is waited for. Raises a retryable error to be asked again."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """`outbox` is (schema, table), `mends` the losses after which everything may be counted again."""

    slot: str
    outbox: tuple[str, str]
    max_cost: int
    feedback_seconds: float
    silence_seconds: float
    fuse: Fuse
    mends: frozenset[Loss] = frozenset(Loss)


class Consumer:
    """Slot to Redis. `phase`, `detail`, `session` and `lineage` may be read by others; sessions come and go."""

    def __init__(
        self,
        settings: ConsumerSettings,
        open_stream: Callable[[], Awaitable[Stream]],
        observer: Observer,
        tallies: Tallies,
        metrics: Metrics,
        rebuild: Rebuild | None = None,
        durability: Durability | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._open_stream = open_stream
        self._observer = observer
        self._tallies = tallies
        self._metrics = metrics
        self._rebuild = rebuild
        self._durability = durability
        self._now = now
        self.started_at = now()
        self.phase = Phase.CONNECTING
        self.detail = ""
        self.session: Session | None = None
        self.lineage: Lineage | None = None
        self.records: dict[str, CounterRecord] = {}
        self.transactions = 0
        self.deltas = 0
        self._in_session = asyncio.Event()
        self._evictions = EvictionGuard(tallies, now)
        self._seen: Stored | None = None
        self._stuck = Stuck()
        self._blown = ""
        self._rebuilt_for = ""
        self._rebuilds = 0
        self._rebuilt_lately = False
        self._rebuild_pauses = Backoff(0.5, 30.0)

    async def run(self, stop: asyncio.Event) -> None:
        """Stream until `stop`; raises the error of a decision that a restart can't mend."""
        backoff = Backoff(0.1, 5.0)
        while not stop.is_set():
            began = time.monotonic()
            try:
                await self._one_session(stop)
            except (CdcCounterError, TimeoutError) as error:
                if time.monotonic() - began > _SETTLED_SECONDS:
                    backoff.reset()
                    self._rebuilt_lately = False
                    self._came_back()
                await self._after(self._weighed(error), backoff, stop)
        # A stand-by stays one to its end: what is said of the stream is not its to say.
        if self.phase is not Phase.WAITING_FOR_SLOT:
            self.phase, self.detail = Phase.STOPPED, ""

    async def between_steps(self, lsn: Lsn, act: Callable[[], Awaitable[T]]) -> T:
        """Run `act` in this or the next session, once everything up to `lsn` is applied, while no step is.

        Raises SupersededError when the session ends meanwhile.
        """
        await self._in_session.wait()
        session = self.session
        if session is None:
            raise SupersededError("the session ended")
        return await session.applier.between_steps(lsn, act, session.wake)

    async def see_a_snapshot(self) -> None:
        """See one if none was seen: without it nothing could be let go of while somebody compares."""
        if self.lineage is not None and not self.lineage.has_seen_a_snapshot:
            self.observed((await self._observer.observe()).snapshot)

    def observed(self, snapshot: Snapshot) -> None:
        """Take note of what every newer snapshot sees."""
        if self.lineage is not None:
            self.lineage.release(snapshot)

    def interrupt(self, error: CdcCounterError) -> None:
        """End the session with this error, if there is one."""
        if self.session is not None:
            self.session.end(error)

    def fuse_blew(self, reason: str) -> None:
        """Take note that our slot was dropped, and why; it is made again when Redis can be asked."""
        _log.warning("the fuse blew, slot %r is dropped: it %s", self.settings.slot, reason)
        self._blown = f"the fuse blew: slot {self.settings.slot!r} {reason}"
        self.detail = self._blown
        self._metrics.fuse_blown.set(1)

    def _weighed(self, error: BaseException) -> BaseException:
        """Return what an error comes to: what can't be decoded, however often it is tried, is lost."""
        seen = self._seen
        if not isinstance(error, UndecodableError) or seen is None or not self._stuck.failed(seen.watermark):
            return error
        reason = f"slot {self.settings.slot!r} can't be decoded from {seen.watermark.lsn} on: {error}"
        return LostError(Loss.SLOT_UNDECODABLE, reason)

    async def _after(self, error: BaseException, backoff: Backoff, stop: asyncio.Event) -> None:
        if isinstance(error, ReseedNeededError):
            try:
                await unless_stopped(self._begin_again(error, stop), stop)
            except (CdcCounterError, TimeoutError) as failure:
                error = failure
            else:
                return
        if isinstance(error, TimeoutError):
            error = UnreachableError("postgres: no answer in time")
        if not isinstance(error, CdcCounterError):
            raise error
        self.detail = str(error)
        if not error.retry:
            self.phase = Phase.STOPPED
            raise error
        if stop.is_set():
            _log.info("%s", error)
        elif isinstance(error, BusyError):
            if self.phase is not Phase.WAITING_FOR_SLOT:
                _log.info("standing by: %s", error)
            self.phase = Phase.WAITING_FOR_SLOT
            await pause(_STANDBY_PAUSE, stop)
        else:
            self.phase = Phase.CONNECTING
            self._metrics.reconnects.labels("postgres").inc()
            _log.warning("%s; trying again", error)
            await backoff.wait(stop)

    async def _begin_again(self, error: ReseedNeededError, stop: asyncio.Event) -> None:
        """Begin a new epoch; the healer counts everything again in the session that follows."""
        loss, reason = loss_of(error), str(error)
        if loss is Loss.EVICTED and self._seen is not None:
            await self._evictions.mark(self._seen, f"{reason}; {error.hint}")
        if self._rebuild is None or loss not in self.settings.mends:
            raise error
        self._require_hope(error)
        if reason != self._rebuilt_for:
            _log.warning("every counter is rebuilt (%s): %s", loss, reason)
        self._rebuilt_for, self.detail = reason, reason
        # Somebody else may stream after all, from another server: a stand-by does not speak over him.
        if self.phase is not Phase.WAITING_FOR_SLOT:
            self.phase = Phase.REBUILDING
        if self._rebuilt_lately:
            await self._rebuild_pauses.wait(stop)

        def show(what: str) -> None:
            self.phase = Phase.REBUILDING
            if what not in self.detail:
                _log.info("rebuilding: %s", what)
            self.detail = f"{reason}; {what}"

        if await self._evictions.until_calm(show):
            self._came_back()
        await self._rebuild(loss, reason, self._seen, show)
        self._rebuilds += 1
        self._rebuilt_lately = True
        # Whatever was known of them belongs to the lifetime before.
        self.records = {name: record.moved_to(CounterState.SEEDING, 0) for name, record in self.records.items()}
        self._metrics.rebuilds.labels(loss.value).inc()

    def _require_hope(self, error: ReseedNeededError) -> None:
        """Raise when rebuilding again would not help."""
        if self.records and not any(record.awaits_seed for record in self.records.values()):
            self._came_back()
        if self._rebuilds >= _MOST_REBUILDS:
            raise ReseedNeededError(f"rebuilt {self._rebuilds} times in a row, and again: {error}", hint=error.hint)

    def _came_back(self) -> None:
        self._rebuilds = 0
        self._rebuild_pauses.reset()

    async def _one_session(self, stop: asyncio.Event) -> None:
        stored, damage = await self._load()
        self._seen = stored
        stream = await self._open_stream()
        try:
            facts = await stream.facts(stored.epoch.timeline if stored else None)
            known = self.lineage.epoch if self.lineage else None
            decision = decide(stored, facts, self.settings.slot, known=known, damage=damage, fuse=self.settings.fuse)
            if decision.loss is Loss.SLOT_GONE and self._blown:
                decision = replace(decision, loss=Loss.FUSE_BLOWN, reason=self._blown)
            if stored is None or decision.action is not Action.CONTINUE:
                # Only of a loss: under load a stand-by sees the watermark move at every look.
                if decision.action is Action.RESEED:
                    await self._require_still(stored)
                raise decision.error()
            await self._evictions.require_whole(stored)
            stored = await self._on_timeline(stored, facts)
            await stream.start(stored.watermark.lsn)
            # The slot may have been moved between the question and the start.
            confirmed = await self._observer.confirmed_flush()
            again = recheck_after_start(stored.watermark, confirmed, self.settings.slot)
            if again.action is not Action.CONTINUE:
                await self._require_still(stored)
                raise again.error()
            await self._stream(stream, stored, confirmed or ZERO, facts.next_xid, stop)
        finally:
            await stream.close()

    async def _require_still(self, stored: Stored | None) -> None:
        """Raise BusyError if another consumer went on between the questions: then nothing was lost."""
        if stored is not None and (now := (await self._load())[0]) is not None and now != stored:
            raise BusyError(f"another consumer moved the watermark from {stored.watermark.lsn} to {now.watermark.lsn}")

    async def _load(self) -> tuple[Stored | None, str]:
        """Return what Redis holds, or what is wrong with it."""
        try:
            return await self._tallies.load(), ""
        except LostError as error:
            return None, str(error)

    async def _on_timeline(self, stored: Stored, facts: ServerFacts) -> Stored:
        """Follow a promotion that the decision allowed, so that the next comparison starts from the new timeline."""
        old, new = stored.epoch.timeline, facts.timeline
        if old == new:
            return stored
        _log.warning("the server was promoted from timeline %d to %d; nothing applied is lost", old, new)
        outcome = await self._tallies.apply(stored.epoch.identity, [Move("timeline", str(old), str(new))], [])
        if not isinstance(outcome, Applied):
            raise SupersededError(f"the timeline could not be noted: {outcome}")
        after = await self._tallies.load()
        if after is None:
            raise SupersededError("the tallies are gone")
        return after

    async def _stream(self, stream: Stream, stored: Stored, confirmed: Lsn, next_xid: int, stop: asyncio.Event) -> None:
        settings = self.settings
        self.records = await self._tallies.counters()
        if self.lineage is None or not self.lineage.continues(stored.epoch, stored.watermark):
            notes = await self._tallies.recent()
            self.lineage = Lineage.from_notes(stored.epoch, stored.watermark, _RECENT_DELTAS, notes)
        progress = Progress.starting_at(stored.watermark.lsn, confirmed)
        batcher = Batcher(stored.watermark, settings.max_cost)
        applier = Applier(self._tallies, self.lineage, progress, self.records, self._metrics, self._now)
        self.session = Session(
            stream,
            batcher,
            Assembly(*settings.outbox, batcher, next_xid),
            applier,
            progress,
            Confirmation(self._durability, stored.epoch.identity, progress),
            max_cost=settings.max_cost,
            feedback_seconds=settings.feedback_seconds,
            silence_seconds=settings.silence_seconds,
            now=self._now,
            watch_tallies=partial(self._evictions.watch, stored.epoch.identity),
        )
        self.phase, self.detail = Phase.STREAMING, ""
        self._metrics.streaming.set(1)
        self._blown = self._rebuilt_for = ""
        self._metrics.fuse_blown.set(0)
        _log.info("streaming slot %s from %s", settings.slot, stored.watermark.lsn)
        self._in_session.set()
        try:
            await in_own_task(self.session.run(stop), "session")
        finally:
            self._in_session.clear()
            self._metrics.streaming.set(0)
            self.transactions += applier.transactions
            self.deltas += applier.deltas
            self.session = None
            applier.turn_away(SupersededError("the session ended"))
