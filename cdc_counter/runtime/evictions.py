"""Keeps numbers that Redis may have evicted from being shown as live, and from being counted while it still evicts."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from cdc_counter.core.eviction import REMEDY, Evictions
from cdc_counter.core.lifecycle import Loss, LostError, Stored
from cdc_counter.core.outcome import Move
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import CdcCounterError
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.edges import Tallies

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
"""Between looks: for about so long an evicted number may be shown."""


class EvictionGuard:
    """Compares what Redis has evicted with what it had when the tallies were whole."""

    def __init__(self, tallies: Tallies, now: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._tallies = tallies
        self._now = now
        self._clock = clock
        self._whole: Evictions | None = None
        self._latest: Evictions | None = None
        self._changed_at = clock()

    async def require_whole(self, stored: Stored) -> None:
        """Raise LostError if something may have been evicted since these tallies were known to be whole."""
        self._whole = stored.evictions
        await self._compare(stored.epoch.identity)

    async def watch(self, epoch: str, done: asyncio.Event) -> None:
        """Look until `done`; raises LostError once something may have been evicted."""
        while not done.is_set():
            try:
                await self._compare(epoch)
            except LostError:
                raise
            except CdcCounterError as error:
                _log.info("looking for evictions: %s", error)
            await pause(_LOOK_SECONDS, done)

    async def mark(self, seen: Stored, reason: str) -> None:
        """Let readers know: what they see is not to be trusted."""
        try:
            records = await self._tallies.counters()
        except LostError:
            return
        for record in records.values():
            if record.state is CounterState.LIVE:
                marked = record.moved_to(CounterState.STALE, self._now(), reason)
                await self._tallies.set_counter(seen.epoch.identity, marked)

    async def until_calm(self, show: Callable[[str], None]) -> bool:
        """Wait while tallies would be evicted again; says whether it had to."""
        waited = False
        while not (await self._look()).calm(self._clock() - self._changed_at):
            waited = True
            show(f"waiting until redis evicts no more: {REMEDY}")
            await asyncio.sleep(_LOOK_SECONDS)
        return waited

    async def _compare(self, epoch: str) -> None:
        latest = await self._look()
        if (damage := latest.damage_since(self._whole)) != "":
            raise LostError(Loss.EVICTED, damage, hint=REMEDY)
        if latest != self._whole:
            # Whoever wrote something else there has compared as well: this process goes on by what it saw itself.
            noted = Move("evictions", self._whole.text if self._whole else "", latest.text)
            await self._tallies.apply(epoch, [noted], [])
            self._whole = latest

    async def _look(self) -> Evictions:
        before, latest = self._latest, await self._tallies.evictions()
        if latest.may_strike and (before is None or latest.policy != before.policy):
            _log.warning("maxmemory-policy is %s: redis drops tallies when memory runs out; %s", latest.policy, REMEDY)
        if before is None or (latest.run, latest.count) != (before.run, before.count):
            self._changed_at = self._clock()
        self._latest = latest
        return latest
