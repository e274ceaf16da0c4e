"""Makes what is applied durable, as the confirm policy asks, beside the stream that goes on applying.

While the policy can't be kept nothing is confirmed and PostgreSQL retains the WAL: that is said, in the log, in the
status and as a metric, and asked again for ever.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from cdc_counter.core.durability import NotKept
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.progress import Progress
from cdc_counter.errors import UnreachableError
from cdc_counter.runtime.applier import require_applied
from cdc_counter.runtime.backoff import Backoff, pause
from cdc_counter.runtime.edges import Durability
from cdc_counter.runtime.failures import unless_stopped

_log = logging.getLogger(__name__)

_PAUSE: Final = 0.1
"""Seconds between two questions: the second covers all that was applied meanwhile."""

_REPLIES: Final = 1.0
"""Seconds for everything of a question that is not the wait for replicas or a disk."""


class Confirmation:
    """One session's. Without `durability` applied is durable enough. `fault` says why nothing is confirmed."""

    def __init__(self, durability: Durability | None, epoch: str, progress: Progress) -> None:
        self._durability = durability
        self._epoch = epoch
        self._progress = progress
        self._work = asyncio.Event()
        self._behind_since: float | None = None
        self._backoff = Backoff(0.1, 2.0)
        self.fault = ""
        if progress.durable < progress.applied:
            self.applied()

    @property
    def seconds_behind(self) -> float:
        """How long the oldest applied commit has been waiting to be durable; 0 when none is."""
        return 0.0 if self._behind_since is None else time.monotonic() - self._behind_since

    def applied(self) -> None:
        """Take note that more is applied."""
        if self._durability is None:
            self._progress.keep(self._progress.applied)
            return
        if self._behind_since is None:
            self._behind_since = time.monotonic()
        self._work.set()

    async def run(self, drained: asyncio.Event, tell: Callable[[], None]) -> None:
        """Ask until `drained`, then once more; `tell` is called whenever more may be confirmed."""
        if self._durability is None:
            return
        while not drained.is_set():
            await unless_stopped(self._next(self._durability, tell, drained), drained)
        await self._ask(self._durability, tell)

    async def _next(self, durability: Durability, tell: Callable[[], None], drained: asyncio.Event) -> None:
        await self._work.wait()
        self._work.clear()
        if await self._ask(durability, tell):
            self._backoff.reset()
            await pause(_PAUSE, drained)
        else:
            self._work.set()
            await self._backoff.wait(drained)

    async def _ask(self, durability: Durability, tell: Callable[[], None]) -> bool:
        """Return whether everything that was applied when this was called is durable."""
        goal, asked_at = self._progress.applied, time.monotonic()
        if self._progress.durable == goal:
            return True
        fault = await self._fault_of(durability, goal)
        if fault:
            if fault != self.fault:
                _log.warning("nothing is confirmed, so that PostgreSQL retains WAL: %s", fault)
            self.fault = fault
            return False
        if self.fault:
            _log.warning("confirmed again up to %s: what redis.confirm asks for is given", goal)
        self.fault = ""
        self._progress.keep(goal)
        self._behind_since = None if self._progress.applied == goal else asked_at
        tell()
        return True

    async def _fault_of(self, durability: Durability, goal: Lsn) -> str:
        try:
            async with asyncio.timeout(durability.seconds + _REPLIES):
                outcome = await durability.ask(self._epoch, goal)
        except UnreachableError as error:
            return str(error)
        except TimeoutError:
            return f"redis did not answer within {durability.seconds + _REPLIES:g} s"
        if isinstance(outcome, NotKept):
            return outcome.reason
        require_applied(outcome)
        return ""
