"""Continuous verifying: one counter at a time, within a share of the time, resumed after restarts."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from cdc_counter.core.verification import Verdict
from cdc_counter.core.verifying import LastCheck, Pace, next_due
from cdc_counter.errors import CdcCounterError
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.edges import Verifications
from cdc_counter.runtime.reconciler import Reconciler

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.5
"""Longest pause between looks at what is due: counters come and go."""

_RETRY_SECONDS: Final = 5.0
"""After a verification that was inconclusive."""


class ContinuousVerifying:
    """Runs beside a consumer. `repair`: whether drift is subtracted without asking."""

    def __init__(
        self,
        consumer: Consumer,
        reconciler: Reconciler,
        verifications: Verifications,
        pace: Pace,
        *,
        repair: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer = consumer
        self._reconciler = reconciler
        self._verifications = verifications
        self._pace = pace
        self._repair = repair
        self._now = now
        self._last: dict[str, LastCheck] = {}
        self._not_before: dict[str, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Verify until `stop`; what fails is logged and tried again later."""
        if self._pace.share <= 0:
            return
        while not stop.is_set():
            if self._consumer.session is not None:
                try:
                    await self._turn()
                except CdcCounterError as error:
                    _log.info("verifying: %s", error)
                    await pause(_RETRY_SECONDS, stop)
            await pause(self._until_next(), stop)

    async def _turn(self) -> None:
        if not self._last:
            stored = await self._verifications.all()
            self._last = {name: LastCheck(one.at, one.seconds) for name, one in stored.items()}
        due = next_due(self._candidates(), self._last, self._pace)
        if due is None or due[1] > self._now():
            return
        name = due[0]
        started = self._now()
        try:
            found = await self._reconciler.verify(name)
            if found.verdict is Verdict.DRIFT and self._repair:
                found = await self._reconciler.repair(name, "continuous verifying")
        except CdcCounterError as error:
            _log.warning("verifying %s: %s", name, error)
        else:
            if found.verdict is Verdict.INCONCLUSIVE:
                self._not_before[name] = self._now() + _RETRY_SECONDS
                return
        # A counter that can't be verified is not tried more often than one that can.
        self._last[name] = LastCheck(self._now(), max(0.0, self._now() - started))

    def _candidates(self) -> list[str]:
        eligible = [record.name for record in self._consumer.records.values() if record.verifiable]
        return [name for name in eligible if self._not_before.get(name, 0.0) <= self._now()]

    def _until_next(self) -> float:
        if self._consumer.session is None:
            return _LOOK_SECONDS
        due = next_due(self._candidates(), self._last, self._pace)
        return _LOOK_SECONDS if due is None else min(_LOOK_SECONDS, max(0.0, due[1] - self._now()))
