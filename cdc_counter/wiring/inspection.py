"""Looks now and then whether the database captures what Redis counts, and closes what holes it can.

Two things are compared: the counters that the database captures with those that Redis knows, in case that whoever
changed them was killed in between; and capture with the counted tables. A hole (a partition without triggers, a
disabled trigger) means that a number may already be wrong: its counters are marked stale, the triggers are put back for
the counters as they are installed, whatever this process's configuration says, and their rows are counted again.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from cdc_counter.config import Config
from cdc_counter.core.changes import Act
from cdc_counter.core.holes import Hole, reasons_by_counter, to_be_marked
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import CdcCounterError, DefinitionError
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.coverage import coverage
from cdc_counter.postgres.install import InstallEvent, Moment, execute, plan_healing
from cdc_counter.postgres.steps import Plan
from cdc_counter.runtime.applier import Applier, SupersededError
from cdc_counter.runtime.backoff import Backoff, pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.healing import Healer
from cdc_counter.tallies.store import TallyStore
from cdc_counter.wiring.changes import make_known
from cdc_counter.wiring.parts import admin_connect, conninfo

_log = logging.getLogger(__name__)

_UNTIL_STREAMING: Final = 0.5

_WHILE_OPEN: Final = 1.0
"""Whoever closes a hole by hand waits until it is seen to be closed."""

_ATTEMPTS: Final = 8
"""Attempts at one lock before other tables get their turn: about ten seconds."""


class Inspection:
    """Runs beside a consumer."""

    def __init__(self, config: Config, consumer: Consumer, healer: Healer, tallies: TallyStore) -> None:
        self._config = config
        self._consumer = consumer
        self._healer = healer
        self._tallies = tallies
        self._missing: frozenset[str] = frozenset()
        self._refusals: dict[int, str] = {}
        self._pauses: dict[int, Backoff] = {}
        self._not_before: dict[int, float] = {}

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
        seconds = self._config.postgres.inspection_seconds
        return min(_WHILE_OPEN, seconds) if self._healer.held_back else seconds

    async def _inspect(self) -> None:
        session = self._consumer.session
        if session is None:
            return
        applier = session.applier
        holes = await self._look(applier)
        self._compare_with_declared()
        self._forget_all_but({hole.table for hole in holes})
        await self._mark(holes)
        healed = False
        for table in sorted({hole.table for hole in holes if not hole.by_hand}):
            if time.monotonic() >= self._not_before.get(table, 0.0):
                healed |= await self._close(table, [hole for hole in holes if hole.table == table])
        if healed:
            holes = await self._look(applier)
        await self._mark(holes)

    async def _look(self, applier: Applier) -> list[Hole]:
        settings = self._config.postgres
        async with connected(conninfo(settings, "inspection")) as connection:
            if await make_known(self._config, connection, self._tallies, applier.lineage.epoch.identity):
                await applier.adopt()
            with translated_errors("inspecting triggers"):
                return await coverage(connection, settings.schema_name)

    async def _mark(self, holes: Sequence[Hole]) -> None:
        reasons = reasons_by_counter(holes, self._refusals)
        self._healer.held_back = frozenset(reasons)
        for name, reason in to_be_marked(reasons, self._consumer.records).items():
            # Others may change or remove counters, and sessions end, while one is marked.
            record, session = self._consumer.records.get(name), self._consumer.session
            if record is None or session is None:
                continue
            _log.error("counter %s is stale: %s", name, reason)
            try:
                await session.applier.change(record.moved_to(CounterState.STALE, time.time(), reason))
            except SupersededError as error:
                _log.info("%s", error)

    async def _close(self, table: int, holes: Sequence[Hole]) -> bool:
        """Close one table's holes, if that can be done here and now."""
        try:
            plan = await self._plan(table)
            patience = self._config.postgres.lock_timeout_ms
            await execute(plan, admin_connect(self._config), _say, attempts=_ATTEMPTS, lock_timeout_ms=patience)
        except CdcCounterError as error:
            remedy = error.hint
            if isinstance(error, DefinitionError):
                remedy += "; or take the counter out of the configuration and run 'cdc-counter apply'"
            self._refusals[table] = f"it can't be mended from here: {error}; {remedy}"
            backoff = self._pauses.setdefault(table, Backoff(0.5, 30.0) if error.retry else Backoff(2.0, 60.0))
            self._not_before[table] = time.monotonic() + backoff.next_delay()
            return False
        recounted = [change.counter for change in plan.counters if change.act is not Act.KEEP]
        mended = "; ".join(map(str, holes))
        _log.warning("captured whole again: %s; to be recounted: %s", mended, ", ".join(recounted) or "nothing")
        self._refusals.pop(table, None)
        return True

    async def _plan(self, table: int) -> Plan:
        settings = self._config.postgres
        async with connected(conninfo(settings, "healing", admin=True)) as connection:
            return await plan_healing(connection, settings.schema_name, settings.publication, table)

    def _forget_all_but(self, tables: set[int]) -> None:
        for memory in (self._refusals, self._pauses, self._not_before):
            for table in memory.keys() - tables:
                del memory[table]

    def _compare_with_declared(self) -> None:
        declared = {definition.name for definition in self._config.counters}
        missing = frozenset(declared - self._consumer.records.keys())
        if missing - self._missing:
            # Also after `apply` has removed a counter: this process still has the configuration it started with.
            remedy = "run 'cdc-counter apply', or restart if the configuration has changed"
            _log.warning("declared but not installed: %s; %s", ", ".join(sorted(missing)), remedy)
        self._missing = missing


def _say(event: InstallEvent) -> None:
    if event.moment is Moment.WAITING:
        _log.info("%s waits for %s", event.title, "; ".join(map(str, event.blockers)) or "a lock")
    elif event.moment is Moment.DONE:
        _log.info("%s: done", event.title)
