"""What goes on beside the stream about once a second: report, beat; and now and then prune.

Nothing here may stop the stream: what fails is logged and done again at the next turn.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from cdc_counter.core.lsn import ZERO
from cdc_counter.core.status import Phase, StreamStatus
from cdc_counter.errors import CdcCounterError
from cdc_counter.metrics import Metrics
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.edges import Observation, Observer, Tallies
from cdc_counter.runtime.watching import Watch

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """Seconds between turns."""

    status_seconds: float
    heartbeat_seconds: float
    prune_seconds: float


class Upkeep:
    """Reports for one consumer. `prune` empties old outbox partitions."""

    def __init__(
        self,
        settings: UpkeepSettings,
        consumer: Consumer,
        observer: Observer,
        watch: Watch,
        tallies: Tallies,
        metrics: Metrics,
        prune: Callable[[], Awaitable[None]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._consumer = consumer
        self._observer = observer
        self._watch = watch
        self._tallies = tallies
        self._metrics = metrics
        self._prune = prune
        self._now = now
        self._at_rest_at = now()
        self._progress_at = now()
        self._last_applied = ZERO

    async def run(self, stop: asyncio.Event) -> None:
        """Take turns until `stop`; the last report says that the consumer stopped."""
        next_beat = next_prune = time.monotonic()
        while not stop.is_set():
            await self._report(self._watch.latest)
            at = time.monotonic()
            if self._consumer.session is not None and at >= next_beat:
                next_beat = at + self._settings.heartbeat_seconds
                await _attempt("heartbeat", self._observer.heartbeat())
            if self._consumer.session is not None and at >= next_prune:
                next_prune = at + self._settings.prune_seconds
                await _attempt("pruning", self._prune())
            await pause(self._settings.status_seconds, stop)

    async def report_stopped(self, detail: str) -> None:
        """Leave a last word, so that readers learn at once rather than by silence."""
        if self._consumer.phase is not Phase.WAITING_FOR_SLOT:
            self._consumer.phase, self._consumer.detail = Phase.STOPPED, detail
            await self._report(None)

    async def _report(self, observation: Observation | None) -> None:
        status = self._status(observation)
        self._metrics.lag_seconds.set(status.lag)
        self._metrics.backlog_bytes.set(status.backlog)
        self._metrics.unconfirmed_seconds.set(status.unconfirmed)
        if status.retained_wal is not None:
            self._metrics.retained_wal_bytes.set(status.retained_wal)
        # A stand-by must not speak over the consumer that streams.
        if self._consumer.phase is not Phase.WAITING_FOR_SLOT:
            await _attempt("reporting", self._tallies.report(status))

    def _status(self, observation: Observation | None) -> StreamStatus:
        now = self._now()
        consumer, session = self._consumer, self._consumer.session
        lineage = consumer.lineage
        applied = lineage.watermark.lsn if lineage else ZERO
        if session is not None and session.at_rest:
            self._at_rest_at = self._progress_at = now
        if applied != self._last_applied:
            self._last_applied, self._progress_at = applied, now
        progress = session.progress if session else None
        return StreamStatus(
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=consumer.started_at,
            reported_at=now,
            phase=consumer.phase,
            detail=consumer.detail,
            slot=consumer.settings.slot,
            epoch=lineage.epoch.identity if lineage else "",
            received=str(progress.received if progress else applied),
            applied=str(applied),
            confirmed=str(progress.confirmed if progress else ZERO),
            # Without a stream nothing is known of newer commits: the age of what is shown is all there is.
            lag=session.lag if session else max(0.0, now - self._at_rest_at),
            backlog=max(0, observation.flush_lsn - applied) if observation and lineage else 0,
            retained_wal=observation.retained_wal if observation else None,
            wal_status=observation.wal_status if observation else None,
            transactions=consumer.transactions + (session.applier.transactions if session else 0),
            deltas=consumer.deltas + (session.applier.deltas if session else 0),
            cycle_seconds=session.applier.cycle_seconds if session else 0.0,
            progress_age=max(0.0, now - self._progress_at),
            unconfirmed=session.confirmation.seconds_behind if session else 0.0,
            confirm_fault=session.confirmation.fault if session else "",
        )


async def _attempt(what: str, work: Awaitable[T]) -> T | None:
    try:
        return await work
    except CdcCounterError as error:
        _log.info("%s: %s", what, error)
        return None
