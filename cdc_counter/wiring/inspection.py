"""Looks now and then whether capture still sees every change, and says so of the counters it does not.

A hole in capture (a partition without triggers, a disabled trigger) means that a number may already be wrong. The
counter is marked stale with the reason, and is not rebuilt before the hole is closed: `init` closes it.
"""

import asyncio
import logging
import time
from typing import Final

from cdc_counter.config import Config
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import CdcCounterError
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.coverage import coverage
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.healing import Healer
from cdc_counter.wiring.parts import conninfo

_log = logging.getLogger(__name__)

_SECONDS: Final = 10.0

_UNTIL_STREAMING: Final = 0.5

_WHILE_OPEN: Final = 1.0
"""Whoever closes a hole with `init` waits until it is seen to be closed."""


class Inspection:
    """Runs beside a consumer."""

    def __init__(self, config: Config, consumer: Consumer, healer: Healer) -> None:
        self._config = config
        self._consumer = consumer
        self._healer = healer
        self._missing: frozenset[str] = frozenset()

    async def run(self, stop: asyncio.Event) -> None:
        """Inspect until `stop`; what fails is tried again."""
        while not stop.is_set():
            try:
                await self._inspect()
            except CdcCounterError as error:
                _log.info("inspecting triggers: %s", error)
            await pause(self._seconds(), stop)

    def _seconds(self) -> float:
        if self._consumer.session is None:
            return _UNTIL_STREAMING
        return _WHILE_OPEN if self._healer.held_back else _SECONDS

    async def _inspect(self) -> None:
        session = self._consumer.session
        if session is None:
            return
        async with connected(conninfo(self._config.postgres, "inspection")) as connection:
            with translated_errors("inspecting triggers"):
                faults = await coverage(connection, self._config.postgres.schema_name)
        self._compare_with_declared()
        reasons = {name: f"{fault.relation} {fault.reason}" for fault in faults for name in fault.counters}
        self._healer.held_back = frozenset(reasons)
        for name, reason in reasons.items():
            record = self._consumer.records.get(name)
            if record is not None and record.state is CounterState.LIVE:
                _log.error("counter %s is stale: %s; run 'cdc-counter init'", name, reason)
                await session.applier.change(record.moved_to(CounterState.STALE, time.time(), reason))

    def _compare_with_declared(self) -> None:
        declared = {definition.name for definition in self._config.counters}
        missing = frozenset(declared - self._consumer.records.keys())
        if missing - self._missing:
            # Also after `init` has retired a counter: this process still has the configuration it started with.
            remedy = "run 'cdc-counter init', or restart if the configuration has changed"
            _log.warning("declared but not installed: %s; %s", ", ".join(sorted(missing)), remedy)
        self._missing = missing
