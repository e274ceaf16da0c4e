"""Rest points: nothing is written, nothing is broken, everything is applied, and every number is counted by hand.

The oracle that owes nothing to verification: both directions, every key that Redis has and every key of the tables.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import psycopg
from redis.exceptions import RedisError

from cdc_counter.core.lsn import Lsn
from cdc_counter.soak.gate import Gate
from cdc_counter.soak.observation import Observation, differences, unix_now
from cdc_counter.soak.record import FindingKind, Record

_POLL_SECONDS: Final = 0.1
_SHOWN: Final = 5
_KEY_LENGTH: Final = 60


class Rest:
    """`calm` is held by whoever breaks things, until they are well again: no rest begins meanwhile."""

    def __init__(self, gate: Gate, observation: Observation, record: Record, counters: int, *, bound: float) -> None:
        self.calm = asyncio.Lock()
        self._gate = gate
        self._observation = observation
        self._record = record
        self._counters = counters
        self._bound = bound

    async def run(self, every: float) -> None:
        """Rest now and then, until cancelled."""
        while True:
            await asyncio.sleep(every)
            async with self.calm:
                await self.compare()

    async def compare(self) -> None:
        """Pause the writers and compare every key with an honest recount. `calm` is held by the caller."""
        async with self._still() as well:
            if not well:
                return
            tallies, truth = await self._observation.tallies(), await self._observation.truth()
            wrong = differences(tallies, truth)
            self._record.ledger += await self._observation.ledger(wrong)
        self._record.rests += 1
        self._record.rest_keys += len(truth)
        if wrong:
            self._record.find(FindingKind.MISSED, f"at rest: {_shown(wrong)}")
        else:
            self._record.say(f"at rest: {len(truth)} keys equal an honest recount")

    async def judge(self, counter: str, reported: str) -> None:
        """Decide whether a reported drift is one: recount the counter by hand with nothing running."""
        self._record.suspected = True
        async with self.calm, self._still(all_live=False) as well:
            if not well:
                self._record.find(FindingKind.MISMATCH, f"{reported}; the numbers did not come to rest to be judged")
                return
            tallies, truth = await self._observation.tallies(), await self._observation.truth()
            wrong = {key: pair for key, pair in differences(tallies, truth).items() if key[0] == counter}
            self._record.ledger += await self._observation.ledger(wrong)
        if wrong:
            self._record.find(FindingKind.MISMATCH, f"{reported}; at rest: {_shown(wrong)}")
        else:
            self._record.find(FindingKind.FALSE_ALARM, f"{reported}; at rest all of it is right")

    async def recovery(self, goal: Lsn, since: float, *, all_live: bool = True) -> str | None:
        """Wait until all is well and includes `goal`; returns what was missing at the end of patience, else None."""
        deadline = time.monotonic() + self._bound
        missing: str | None = "nothing was seen"
        while time.monotonic() < deadline:
            try:
                sight = await self._observation.look()
                missing = sight.not_recovered(goal, since, self._counters if all_live else 0, all_live=all_live)
            except (RedisError, OSError) as error:
                missing = f"redis: {error}"
            # A counter that drifted does not come back by itself: it is judged, not waited for.
            if missing is None or (all_live and self._record.suspected):
                return missing
            await asyncio.sleep(_POLL_SECONDS)
        return missing

    async def end_of_wal(self) -> Lsn:
        """Return a position after every commit so far, as soon as PostgreSQL answers."""
        deadline = time.monotonic() + self._bound
        while True:
            try:
                return await self._observation.end_of_wal()
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_SECONDS)

    @asynccontextmanager
    async def _still(self, *, all_live: bool = True) -> AsyncIterator[bool]:
        """Bring everything to rest; yields whether that worked."""
        self._record.doing = "at rest"
        async with self._gate.shut():
            goal = await self.end_of_wal()
            missing = await self.recovery(goal, unix_now(), all_live=all_live)
            if missing is not None and not (all_live and self._record.suspected):
                self._record.find(FindingKind.NOT_RECOVERED, f"at rest: {missing}")
            yield missing is None
        self._record.doing = ""


def _shown(wrong: dict[tuple[str, str, str], tuple[int, int]]) -> str:
    """Return the first wrong keys in words."""
    named = [
        f"{counter} scope {shortened(scope)} bucket {shortened(bucket)}: "
        f"tally {tally}, truth {truth}, drift {tally - truth:+d}"
        for (counter, scope, bucket), (tally, truth) in list(wrong.items())[:_SHOWN]
    ]
    more = f" and {len(wrong) - _SHOWN} more keys" if len(wrong) > _SHOWN else ""
    return "; ".join(named) + more


def shortened(key: str) -> str:
    """Return a key as text that does not fill the screen."""
    return repr(key if len(key) <= _KEY_LENGTH else f"{key[:_KEY_LENGTH]}...")
