"""Read your writes: waits until the watermark has come to a position.

The feed tells of changes only, and a commit may have changed nothing that is counted: so while anybody waits, one
reading every few milliseconds looks where the watermark is, for all who wait.
"""

import asyncio
import heapq
import logging
from itertools import count
from typing import Final

from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import UnreachableError
from cdc_counter.gateway.readings import Readings
from cdc_counter.gateway.rooms import RoomKey

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.01
"""A commit takes 1 to 5 ms to be applied: looking more often would not be noticed."""


class Arrivals:
    """Everybody who waits for a position, nearest first."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._waiting: list[tuple[Lsn, int, RoomKey, asyncio.Future[None]]] = []
        self._tickets = count()
        self._wanted = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, key: RoomKey, position: Lsn) -> None:
        """Return once a reading of `key` will include `position`. Bounded by the caller's own time-out."""
        arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (position, next(self._tickets), key, arrival))
        self._wanted.set()
        await arrival

    def reached(self, version: Lsn) -> None:
        """Release everybody whose position is included at `version`; forget those who gave up."""
        while self._waiting and (self._waiting[0][0] <= version or self._waiting[0][3].done()):
            arrival = heapq.heappop(self._waiting)[3]
            if not arrival.done():
                arrival.set_result(None)

    async def run(self) -> None:
        """Look where the watermark is while somebody waits, for ever."""
        while True:
            await self._wanted.wait()
            self._drop_abandoned()
            if not self._waiting:
                self._wanted.clear()
                continue
            position, _, key, _ = self._waiting[0]
            try:
                reading = await self._readings.read(key)
            except UnreachableError as error:
                _log.debug("looking for the watermark failed: %s", error)
            else:
                # A counter that is no more tells no version: whoever waits for it finds that out by reading.
                self.reached(position if reading is None else reading.version)
            await asyncio.sleep(LOOK_SECONDS)

    def _drop_abandoned(self) -> None:
        # Those who gave up behind a nearer position would stay for as long as that one waits.
        if any(arrival.done() for *_, arrival in self._waiting):
            self._waiting = [entry for entry in self._waiting if not entry[3].done()]
            heapq.heapify(self._waiting)
