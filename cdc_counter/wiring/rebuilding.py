"""Begins a new epoch for a running consumer whose tallies can't be continued; its healer then counts everything again.

Owns the order of steps, each repeatable after a crash: mark what readers see, publication, slot, epoch. One daemon at a
time does it, under an advisory lock; the epoch is compared before and set last, so whoever comes second follows.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from cdc_counter import failpoints
from cdc_counter.config import Config
from cdc_counter.core.events import EventKind, InitEvent
from cdc_counter.core.lifecycle import Action, Loss, LostError, PublicationFault, Stored, decide
from cdc_counter.core.reading import CounterState
from cdc_counter.core.status import Phase
from cdc_counter.errors import BusyError, NotReadyError, ReseedNeededError
from cdc_counter.failpoints import Failpoint
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.install import execute
from cdc_counter.postgres.installed import installed_counters
from cdc_counter.postgres.own_objects import publication_step
from cdc_counter.postgres.slot import claim_slot
from cdc_counter.postgres.steps import Plan
from cdc_counter.runtime.applier import SupersededError
from cdc_counter.tallies.store import TallyStore
from cdc_counter.wiring.lifetimes import begin_epoch, current_facts, ensure_slot, remove_slot
from cdc_counter.wiring.parts import admin_connect, conninfo

_HINT: Final = "run 'cdc-counter init'"

_MISSED_REPORTS: Final = 3
"""Who has left out so many reports streams no more."""

_LOOK_SECONDS: Final = 0.2


class Rebuilder:
    """Rebuilds one deployment."""

    def __init__(self, config: Config, tallies: TallyStore) -> None:
        self._config = config
        self._tallies = tallies

    async def rebuild(self, loss: Loss, reason: str, seen: Stored | None, show: Callable[[str], None]) -> None:
        """Begin an epoch in place of `seen`; `show` is told who is waited for.

        Raises a retryable error when somebody else is at it or the servers have changed since: look again.
        """
        settings = self._config.postgres
        async with connected(conninfo(settings, "rebuild")) as connection:
            if not await claim_slot(connection, settings.slot):
                raise BusyError(f"another consumer replaces slot {settings.slot!r}")
            replaced = await self._still(seen)
            await self._nobody_streams(seen)
            with translated_errors("reading the counters"):
                counters = await installed_counters(connection, settings.schema_name)
            if not counters:
                raise NotReadyError(f"no counters are installed in schema {settings.schema_name!r}", hint=_HINT)
            await self._may_begin(seen)
            start = None
            if not loss.keeps_slot:
                await self._mark(replaced, reason)
                failpoints.reach(Failpoint.READERS_TOLD)
                await self._publish_outbox(show)
                await remove_slot(connection, settings.slot, lambda event: _tell(event, show))
                start = await ensure_slot(self._config, connection, lambda event: _tell(event, show), admin=False)
            try:
                await begin_epoch(self._config, self._tallies, replaced, start, counters)
            except ReseedNeededError as error:
                raise SupersededError(str(error)) from error

    async def _still(self, seen: Stored | None) -> str:
        """Return the identity of the epoch to be replaced, if it is still the one that was seen."""
        try:
            stored = await self._tallies.load()
        except LostError:
            if seen is None:
                return await self._tallies.identity()
            raise SupersededError("the tallies were damaged meanwhile") from None
        identity = stored.epoch.identity if stored else ""
        if identity != (seen.epoch.identity if seen else ""):
            raise SupersededError(f"redis holds epoch {identity!r}: somebody else began one, or the tallies were lost")
        return identity

    async def _nobody_streams(self, seen: Stored | None) -> None:
        """Raise BusyError while somebody else goes on with the tallies: then this server is a copy of his.

        A server that was promoted takes the place of the one before, whoever still streams that.
        """
        if seen is None or (await current_facts(self._config)).timeline > seen.epoch.timeline:
            return
        me, times = (socket.gethostname(), os.getpid()), set[float]()
        until = time.monotonic() + _MISSED_REPORTS * self._config.stream.status_seconds
        while time.monotonic() < until:
            report = await self._tallies.last_report()
            if report is None:
                return
            if (report.host, report.pid) != me:
                if report.phase is not Phase.STREAMING or report.epoch != seen.epoch.identity:
                    return
                times.add(report.reported_at)
                if len(times) > 1:
                    raise BusyError(
                        f"pid {report.pid} on {report.host} streams these tallies, and from another server: this is "
                        "a copy of it",
                        hint="check postgres.dsn; give every server a redis.prefix of its own",
                    )
            elif report.epoch == seen.epoch.identity:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _may_begin(self, seen: Stored | None) -> None:
        """Raise unless this is our primary and nobody streams the slot: what was decided may be a moment old."""
        facts = await current_facts(self._config)
        decision = decide(seen, facts, self._config.postgres.slot, known=seen.epoch if seen else None)
        if decision.action in {Action.REFUSE, Action.WAIT, Action.RETRY}:
            raise decision.error()

    async def _mark(self, epoch: str, reason: str) -> None:
        """Let readers know before anything is waited for: what they see are the last known values."""
        try:
            records = await self._tallies.counters()
        except LostError:
            return
        for record in records.values():
            if record.state not in {CounterState.SEEDING, CounterState.REBUILDING}:
                marked = record.moved_to(CounterState.REBUILDING, time.time(), reason)
                await self._tallies.set_counter(epoch, marked)

    async def _publish_outbox(self, show: Callable[[str], None]) -> None:
        """Create the publication if it is missing: it must be there before the slot."""
        settings = self._config.postgres
        if (await current_facts(self._config)).publication is not PublicationFault.MISSING:
            return
        step = publication_step(settings.schema_name, settings.publication)
        try:
            await execute(Plan((step,)), admin_connect(self._config), lambda event: show(event.title))
        except NotReadyError as error:
            raise NotReadyError(
                f"publication {settings.publication!r} does not exist, and may not be created: {error}",
                hint="run 'cdc-counter init' as the role that installed the counters",
            ) from error


def _tell(event: InitEvent, show: Callable[[str], None]) -> None:
    if event.kind == EventKind.WAITING:
        show(f"{event.title}: {event.detail}")
