"""Watches the server from beside the stream, whether Redis answers or not.

It ends a session that a stopping server would wait for, or whose publication was altered, and has the slot dropped when
the fuse blows. A slot that somebody streams is never dropped: whoever streams it watches it, too.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from cdc_counter.cancellation import within
from cdc_counter.core.fuse import Fuse
from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import CdcCounterError, StoppingError, UnreachableError
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.edges import Observation, Observer
from cdc_counter.runtime.failures import unless_stopped

_log = logging.getLogger(__name__)

_LOOKS: Final = 2
"""In a row that must find a slot beyond the limit and free: a consumer that only connects again keeps its slot."""

_DROP_SECONDS: Final = 30.0
"""To connect, look again and drop the slot; what takes longer is begun anew at the next look."""


class GiveUpSlot(Protocol):
    """Drops the slot."""

    def __call__(self, why: Callable[[Observation], str]) -> Coroutine[Any, Any, bool]:
        """Drop it if it is free and `why` still gives a reason; False otherwise."""


class Watch:
    """`latest` is the newest observation, None while the server can't be asked."""

    def __init__(
        self,
        seconds: float,
        consumer: Consumer,
        observer: Observer,
        fuse: Fuse,
        give_up: GiveUpSlot,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.latest: Observation | None = None
        self._seconds = seconds
        self._consumer = consumer
        self._observer = observer
        self._fuse = fuse
        self._give_up = give_up
        self._clock = clock
        self._stands_at: tuple[Lsn | None, float] = (None, clock())
        self._found = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        while not stop.is_set():
            try:
                await unless_stopped(self._look(), stop)
            except (CdcCounterError, TimeoutError) as error:
                self.latest = None
                _log.info("watching the server: %s", error)
                if isinstance(error, StoppingError):
                    self._consumer.interrupt(error)
            await pause(self._seconds, stop)

    async def _look(self) -> None:
        self.latest = observation = await self._observer.observe()
        self._consumer.observed(observation.snapshot)
        began_with = self._consumer.lineage.epoch.publication if self._consumer.lineage is not None else ""
        if began_with and observation.outbox_exists and observation.publication_mark != began_with:
            self._consumer.interrupt(UnreachableError("the publication was altered", hint=""))
        if observation.confirmed != self._stands_at[0]:
            self._stands_at = (observation.confirmed, self._clock())
        reason = self._why(observation)
        if reason and self._consumer.session is not None:
            self._consumer.interrupt(UnreachableError(f"slot {self._consumer.settings.slot!r} {reason}", hint=""))
        self._found = self._found + 1 if reason and not observation.active else 0
        if self._found >= _LOOKS and await within(_DROP_SECONDS, self._give_up(self._why)):
            self._consumer.fuse_blew(reason)

    def _why(self, observation: Observation) -> str:
        unmoved = max(self._clock() - self._stands_at[1], observation.inactive_seconds)
        return self._fuse.blown(observation.retained_wal, unmoved)
