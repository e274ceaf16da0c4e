"""Follows what is done to the counters from outside: takes up new ones, lets go of removed ones, clears what they left.

Only the process that applies deltas may delete tallies of a removed counter: a step that is under way would put some of
them back.
"""

import asyncio
import logging

from cdc_counter import failpoints
from cdc_counter.core.lsn import ZERO
from cdc_counter.errors import CdcCounterError
from cdc_counter.failpoints import Failpoint
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.edges import Tallies

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


class Follower:
    """Runs beside a consumer, and goes on while a long seed does."""

    def __init__(self, consumer: Consumer, tallies: Tallies) -> None:
        self._consumer = consumer
        self._tallies = tallies

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`; what fails is done again at the next turn."""
        while not stop.is_set():
            try:
                await self.follow()
            except CdcCounterError as error:
                _log.info("following the counters: %s", error)
            await pause(_LOOK_SECONDS, stop)

    async def follow(self) -> None:
        """Take one turn."""
        session = self._consumer.session
        if session is None:
            return
        await session.applier.adopt()
        for name, removed_id in (await self._tallies.removed()).items():
            if name in self._consumer.records:
                continue
            # The step that is under way may still add to it; from the next one on nothing does.
            epoch = await self._consumer.between_steps(ZERO, self._epoch)
            if await self._tallies.clear_removed(epoch, name, removed_id):
                _log.info("counter %s was removed: its tallies are gone", name)
                failpoints.reach(Failpoint.TALLIES_CLEARED)

    async def _epoch(self) -> str:
        lineage = self._consumer.lineage
        return lineage.epoch.identity if lineage is not None else ""
