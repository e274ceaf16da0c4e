"""What begins and ends a lifetime of tallies: the slot they are streamed from, and the epoch they belong to.

`init` and the daemon that rebuilds share it. Each step finds out for itself whether it is done, and none waits for a
lock that writers want.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from cdc_counter import failpoints
from cdc_counter.cancellation import end, honour_cancellation, within
from cdc_counter.config import Config, PostgresSettings
from cdc_counter.core.changes import begun
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.events import EventKind, InitEvent
from cdc_counter.core.fuse import Fuse
from cdc_counter.core.lifecycle import Epoch, LostError, ServerFacts, Stored, a_primary
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.watermark import Watermark
from cdc_counter.errors import BusyError, CdcCounterError
from cdc_counter.failpoints import Failpoint
from cdc_counter.postgres.blockers import blockers_of
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.installed import InstalledCounter
from cdc_counter.postgres.observer import observe
from cdc_counter.postgres.settling import unsettled
from cdc_counter.postgres.slot import (
    claim_slot,
    create_slot,
    drop_slot,
    find_slot,
    renew_publication,
    standbys_expected,
)
from cdc_counter.runtime.edges import Observation
from cdc_counter.tallies.store import TallyStore
from cdc_counter.wiring.parts import conninfo, open_stream

_log = logging.getLogger(__name__)

OnEvent = Callable[[InitEvent], None]

_SLOT_SECONDS: Final = (3, 300)
"""How long the first attempt at creating the slot waits for one transaction, and the longest one does. It holds no lock
that writers want. Each attempt begins anew: where some transaction always runs, only a longer one gets there."""

_LOOK_SECONDS: Final = 0.3

_LOOK_PATIENCE: Final = 30.0
"""Seconds for one look, which takes milliseconds."""


async def current_facts(config: Config) -> ServerFacts:
    """Ask the server, as the start-up decision does, but for the history of timelines."""
    stream = await open_stream(config)
    try:
        return await stream.facts(None)
    finally:
        await stream.close()


async def ensure_slot(
    config: Config, connection: AsyncConnection[Any], on_event: OnEvent, *, admin: bool = True
) -> Lsn | None:
    """Create the slot unless it is there; returns its consistent point when it was created.

    Waits for running transactions as long as it takes, and says who they are. A slot that waits keeps WAL: an attempt
    that keeps half of what the fuse allows is broken off, which frees it, and begun anew.
    """
    settings = config.postgres
    if await find_slot(connection, settings.slot) is not None:
        return None
    failover = await standbys_expected(connection) if settings.failover == "auto" else settings.failover
    patience, longest = _SLOT_SECONDS
    await renew_publication(connection, settings.publication)
    looking = _watch(conninfo(settings, "init", admin=admin), connection.info.backend_pid, settings, on_event)
    watching = asyncio.create_task(looking, name="slot watch")
    try:
        while True:
            try:
                honour_cancellation()
                with translated_errors("creating the slot"):
                    await connection.execute(f"SET lock_timeout = '{patience}s'")
                start = await create_slot(connection, settings.slot, failover=failover)
            except BusyError:
                patience = min(2 * patience, longest)
                continue
            break
    finally:
        await end([watching])
    failpoints.reach(Failpoint.SLOT_CREATED)
    with translated_errors("creating the slot"):
        await connection.execute("RESET lock_timeout")
    on_event(InitEvent(EventKind.STEP, f"created slot {settings.slot}", f"consistent at {start}"))
    return start


async def _watch(watcher: str, pid: int, settings: PostgresSettings, on_event: OnEvent) -> None:
    """Look until cancelled, over connections of its own: without a guard an attempt would keep WAL without a limit."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            async with connected(watcher) as connection:
                while True:
                    await within(_LOOK_PATIENCE, _look(connection, pid, settings, on_event))
                    await asyncio.sleep(_LOOK_SECONDS)
        except (CdcCounterError, TimeoutError) as error:
            _log.warning("watching the slot's creation: %s; trying again", error)


async def _look(watcher: AsyncConnection[Any], pid: int, settings: PostgresSettings, on_event: OnEvent) -> None:
    with translated_errors("looking for blockers"):
        blockers = await blockers_of(watcher, pid)
        observation = await observe(watcher, settings.schema_name, settings.slot, settings.publication)
        if Fuse(settings.fuse_wal_mb).halved.blown(observation.retained_wal, 0):
            await watcher.execute("SELECT pg_cancel_backend(%s)", [pid])
    if blockers:
        on_event(InitEvent(EventKind.WAITING, "creating the slot", waiting_for(blockers)))


async def remove_slot(connection: AsyncConnection[Any], slot: str, on_event: OnEvent) -> None:
    """Drop the slot if it is there; raises BusyError while a consumer streams it."""

    async def refuse(pid: int) -> None:
        raise BusyError(
            f"slot {slot!r} is active for pid {pid}", hint="stop 'cdc-counter run', then run this command again"
        )

    try:
        dropped = await drop_slot(connection, slot, refuse)
    except psycopg.Error as error:
        raise CdcCounterError(f"dropping slot {slot!r}: {error}") from error
    if dropped:
        failpoints.reach(Failpoint.SLOT_DROPPED)
        on_event(InitEvent(EventKind.STEP, f"dropped slot {slot}"))


async def give_up_slot(config: Config, why: Callable[[Observation], str]) -> bool:
    """Drop the slot for which `why` gives a reason, unless somebody streams or replaces it; say whether it was."""
    settings = config.postgres
    async with connected(conninfo(settings, "fuse")) as connection:
        if not await claim_slot(connection, settings.slot):
            return False
        with translated_errors("looking at the slot"):
            observation = await observe(connection, settings.schema_name, settings.slot, settings.publication)
        if observation.active or not why(observation):
            return False
        await remove_slot(connection, settings.slot, lambda _: None)
        return True


async def begin_epoch(
    config: Config, tallies: TallyStore, replaced: str, start: Lsn | None, counters: Sequence[InstalledCounter]
) -> None:
    """Begin an epoch at `start`, or where the slot stands, with every counter to be seeded.

    `replaced` is the identity of the epoch before, '' for none. Raises ReseedNeededError when another one is stored,
    BusyError while a consumer streams the slot, UnreachableError where the address leads to a standby by now.
    """
    facts = await current_facts(config)
    if (amiss := a_primary(facts)) is not None:
        raise amiss.error()
    slot = facts.slot
    watermark = start if start is not None else slot.confirmed_flush if slot else None
    if watermark is None:
        raise BusyError(f"slot {config.postgres.slot!r} disappeared", hint="run the command again")
    if slot is not None and slot.active_pid is not None:
        raise BusyError(
            f"slot {config.postgres.slot!r} is active for pid {slot.active_pid}, but Redis has no tallies under "
            f"prefix {config.redis.prefix!r}",
            hint="check redis.url and redis.prefix; if they are right stop 'cdc-counter run' and run init again",
        )
    epoch = Epoch(
        identity=secrets.token_hex(8),
        system_identifier=facts.system_identifier,
        database_oid=facts.database_oid,
        timeline=facts.timeline,
        slot=config.postgres.slot,
        publication=facts.publication_mark,
    )
    known = await _known(tallies)
    now = time.time()
    records = [begun(known.get(counter.name), counter, now) for counter in counters]
    # After the position is fixed: whoever is not among them now is visible to every recount, or commits later.
    async with connected(conninfo(config.postgres, "epoch")) as connection:
        note = " ".join(map(str, await unsettled(connection)))
    # Asked before anything of the epoch is written: what is evicted from now on may be of it.
    begins = Stored(epoch, Watermark(watermark), await tallies.evictions())
    await tallies.begin_epoch(replaced, begins, records, now, note=note)
    failpoints.reach(Failpoint.EPOCH_BEGUN)


async def _known(tallies: TallyStore) -> dict[str, CounterRecord]:
    """Return what Redis knows of the counters, as far as it can be read."""
    try:
        return await tallies.counters()
    except LostError:
        return {}


def waiting_for(blockers: Iterable[object]) -> str:
    """Say who is waited for."""
    return "waiting for " + ("; ".join(map(str, blockers)) or "a lock that is gone by now")
