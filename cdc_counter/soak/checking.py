"""Verifies one counter after the other, as fast as the daemon answers, while everything goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from redis.exceptions import RedisError

from cdc_counter.core.status import Phase
from cdc_counter.core.verification import Verdict, Verification
from cdc_counter.errors import CdcCounterError
from cdc_counter.soak.daemon import Daemon
from cdc_counter.soak.observation import Observation
from cdc_counter.soak.record import Record
from cdc_counter.soak.rest import Rest, shortened

Verify = Callable[[str], Awaitable[Verification]]
"""Verify a counter, by its name."""

_PATIENCE_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.2


class Checker:
    """A verification with a verdict is a check; a reported drift is judged at rest and ends the soak."""

    def __init__(
        self,
        verify: Verify,
        daemon: Daemon,
        observation: Observation,
        rest: Rest,
        record: Record,
        *,
        pause: float,
    ) -> None:
        self._verify = verify
        self._daemon = daemon
        self._observation = observation
        self._rest = rest
        self._record = record
        self._pause = pause
        self._equal: dict[str, str] = {}

    async def run(self, counters: Sequence[str], limit: int | None) -> None:
        """Verify until there are `limit` checks, or a drift."""
        while True:
            for counter in counters:
                if limit is not None and self._record.checks >= limit:
                    return
                # The daemon is what is tested: nobody verifies in its place.
                while not (self._daemon.running and await self._answers()):
                    await asyncio.sleep(_RETRY_SECONDS)
                if await self._check(counter):
                    return
                await asyncio.sleep(self._pause)

    async def _answers(self) -> bool:
        """Say whether the daemon reports that it works: a report of its end may be the last there is."""
        try:
            status = (await self._observation.look()).status
        except (RedisError, OSError):
            return False
        return status is not None and status.phase is not Phase.STOPPED

    async def _check(self, counter: str) -> bool:
        """Verify one counter; returns whether it drifted."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                verification = await self._verify(counter)
        except TimeoutError:
            self._record.undecided("no answer in time")
            return False
        except CdcCounterError as error:
            self._record.undecided(str(error))
            await asyncio.sleep(_RETRY_SECONDS)
            return False
        match verification.verdict:
            case Verdict.INCONCLUSIVE:
                self._record.undecided(verification.reason)
                return False
            case Verdict.EQUAL:
                self._equal[counter] = f"{verification.lsn} ({datetime.now(UTC):%H:%M:%S})"
                self._record.checks += 1
                self._record.keys_compared += verification.keys
                return False
            case Verdict.DRIFT:
                self._record.checks += 1
                self._record.keys_compared += verification.keys
                last = self._equal.get(counter, "never")
                await self._rest.judge(counter, f"{reported(verification)}, last equal at {last}")
                return True


def reported(verification: Verification) -> str:
    """Return a drift in words."""
    keys = [f"{shortened(key.scope)} {shortened(key.bucket)} by {key.difference:+d}" for key in verification.drifts[:3]]
    more = "" if verification.drifted <= len(keys) else f" and {verification.drifted - len(keys)} more keys"
    return f"verification of {verification.counter} at {verification.lsn} reported drift of {', '.join(keys)}{more}"
