"""Brings every counter to `live`: seeds the ones that await it, rebuilds the ones that went stale.

One counter at a time; a failure is shown as the counter's state and tried again after a growing pause, so that a
counter that can't be counted is no crash loop and no load.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import CdcCounterError
from cdc_counter.runtime.backoff import Backoff, pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.seeder import Seeder, SeedProgress

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


class Healer:
    """Runs beside a consumer. `held_back`: not to be rebuilt yet; `failure`: what waiting can't mend.

    `news` is set whenever a counter was seeded or failed to be, and cleared by whoever waits for that.
    """

    def __init__(self, consumer: Consumer, seeder: Seeder, now: Callable[[], float] = time.time) -> None:
        self._consumer = consumer
        self._seeder = seeder
        self._now = now
        self.held_back: frozenset[str] = frozenset()
        self.failure: CdcCounterError | None = None
        self.news = asyncio.Event()
        self._pauses: dict[str, Backoff] = {}
        self._not_before: dict[str, float] = {}
        self._epoch = ""

    async def run(self, stop: asyncio.Event, on_progress: SeedProgress) -> None:
        """Look after the counters until `stop`."""
        while not stop.is_set():
            await self.heal(on_progress)
            await pause(_LOOK_SECONDS, stop)

    async def heal(self, on_progress: SeedProgress) -> None:
        """Take one round."""
        session = self._consumer.session
        if session is None:
            return
        try:
            await session.applier.adopt()
        except CdcCounterError as error:
            _log.info("reading the counters: %s", error)
            return
        if session.applier.lineage.epoch.identity != self._epoch:
            # What failed before belongs to another lifetime.
            self._epoch = session.applier.lineage.epoch.identity
            self._pauses.clear()
            self._not_before.clear()
        for record in list(self._consumer.records.values()):
            # A wrong number is evidence: it is repaired on purpose, not painted over.
            if record.state is CounterState.LIVE or record.drifted or record.name in self.held_back:
                continue
            if not self._is_due(record.name) or self._consumer.records.get(record.name) is not record:
                continue
            try:
                await self._seeder.seed(await self._begin(record), on_progress)
                self._pauses.pop(record.name, None)
                self.failure = None
            except CdcCounterError as error:
                await self._failed(record, error)
            self.news.set()

    def _is_due(self, name: str) -> bool:
        return time.monotonic() >= self._not_before.get(name, 0.0)

    async def _begin(self, record: CounterRecord) -> CounterRecord:
        """Mark a stale counter as being rebuilt: its last values stay until the new ones are there."""
        if record.awaits_seed:
            return record
        session = self._consumer.session
        rebuilding = record.moved_to(CounterState.REBUILDING, self._now(), record.reason)
        if session is not None:
            await session.applier.change(rebuilding)
        return rebuilding

    async def _failed(self, record: CounterRecord, error: CdcCounterError) -> None:
        if error.retry:
            backoff = self._pauses.setdefault(record.name, Backoff(0.2, 5.0))
            _log.info("seeding %s: %s", record.name, error)
        else:
            backoff = self._pauses.setdefault(record.name, Backoff(5.0, 300.0))
            self.failure = error
            _log.error("seeding %s failed: %s", record.name, error)
            await self._show(record, error)
        self._not_before[record.name] = time.monotonic() + backoff.next_delay()

    async def _show(self, record: CounterRecord, error: CdcCounterError) -> None:
        """Let readers see why there is no number; a counter that never had one goes on being seeded."""
        session, current = self._consumer.session, self._consumer.records.get(record.name)
        if session is None or current is None or current.id != record.id:
            return
        state = CounterState.SEEDING if current.state is CounterState.SEEDING else CounterState.STALE
        try:
            await session.applier.change(current.moved_to(state, self._now(), str(error)))
        except CdcCounterError as failure:
            _log.info("marking %s as stale: %s", record.name, failure)
