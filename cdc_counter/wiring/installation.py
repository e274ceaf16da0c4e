"""What `init` and `drop` do, in an order that can be interrupted anywhere and run again.

init: check, objects, slot, epoch, seed. The slot comes after the triggers, so that every delta that is captured from
the slot's start on is streamed; the seed comes last, so that it needs no moment at which nothing is written. Each step
finds out for itself whether it is done.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from psycopg import AsyncConnection

from cdc_counter.config import Config
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.events import EventKind, InitEvent, InitReport
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.core.lifecycle import Stored, belongs_elsewhere
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import NotReadyError
from cdc_counter.metrics import Metrics
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.install import InstallEvent, Moment, execute, plan_objects, remove_objects
from cdc_counter.postgres.installed import InstalledCounter, installed_counters
from cdc_counter.postgres.readiness import check_postgres
from cdc_counter.postgres.slot import find_slot
from cdc_counter.runtime.failures import in_own_task
from cdc_counter.tallies.readiness import check_redis
from cdc_counter.tallies.store import TallyStore
from cdc_counter.wiring.lifetimes import (
    begin_epoch,
    current_facts,
    ensure_slot,
    record_of,
    remove_slot,
    waiting_for,
)
from cdc_counter.wiring.parts import (
    ConsumingParts,
    admin_connect,
    conninfo,
    consume,
    consuming_parts,
    redis_client,
    tally_store,
)

OnEvent = Callable[[InitEvent], None]

_LOOK_SECONDS: Final = 0.3


async def init(config: Config, on_event: OnEvent, *, reseed: bool = False) -> InitReport:
    """Install what is missing and seed what is not live; when a server is not ready nothing is changed."""
    definitions = config.require_counters()
    settings = config.postgres
    async with connected(conninfo(settings, "init", admin=True)) as connection, tally_store(config) as tallies:
        await _check(config, connection, on_event)
        stored = await tallies.load()
        if stored is not None and not reseed:
            await _require_same_database(config, stored)
        with translated_errors("planning"):
            plan = await plan_objects(connection, settings.schema_name, settings.publication, definitions)
        await execute(plan, admin_connect(config), lambda event: on_event(_as_init_event(event)))
        changed = len(plan.steps)
        if reseed:
            await remove_slot(connection, settings.slot, on_event)
        start = await ensure_slot(config, connection, on_event)
        changed += start is not None
        with translated_errors("reading the counters"):
            counters = await installed_counters(connection, settings.schema_name)
        if stored is None or reseed:
            await begin_epoch(config, tallies, stored, start, counters)
            changed += 1
        else:
            changed += await _follow_counters(tallies, stored.epoch.identity, counters)
    seeded = await _seed(config, on_event)
    names = tuple(definition.name for definition in definitions)
    async with tally_store(config) as tallies:
        after = await tallies.load()
    return InitReport(changed, names, seeded, after.epoch.identity if after else "")


async def print_sql(config: Config) -> str:
    """Return the SQL of every step that `init` would take in the database, to be run with psql; changes nothing."""
    settings = config.postgres
    async with connected(conninfo(settings, "plan", admin=True)) as connection:
        with translated_errors("planning"):
            plan = await plan_objects(connection, settings.schema_name, settings.publication, config.require_counters())
        slot = await find_slot(connection, settings.slot)
    lines = ["-- Installs the counters. Run it with psql -v ON_ERROR_STOP=1; then run 'cdc-counter init' for the slot"]
    lines += ["-- and the seed. Each step is a transaction with a short lock_timeout: one that fails may be run again."]
    for step in plan.steps:
        lines += ["", f"-- {step.title}", *step.sql]
    if plan.is_empty:
        lines.append("-- Nothing to do: every object is in place.")
    if slot is None:
        lines += ["", f"-- The slot {settings.slot!r} does not exist; 'cdc-counter init' creates it, with the right"]
        lines += ["-- REPLICATION. It must not be created before the steps above."]
    return "\n".join(lines)


async def drop(config: Config, on_event: OnEvent) -> None:
    """Remove everything: the slot first, for it holds back WAL, then triggers and objects, then the keys in Redis."""
    settings = config.postgres
    async with connected(conninfo(settings, "drop", admin=True)) as connection:
        await remove_slot(connection, settings.slot, on_event)
        with translated_errors("removing our objects"):
            await remove_objects(
                connection,
                admin_connect(config),
                settings.schema_name,
                settings.publication,
                lambda event: on_event(_as_init_event(event)),
            )
    async with tally_store(config) as tallies:
        keys = await tallies.delete_everything()
    on_event(InitEvent(EventKind.STEP, f"removed {keys} {'key' if keys == 1 else 'keys'} from Redis"))


async def _check(config: Config, connection: AsyncConnection[Any], on_event: OnEvent) -> None:
    with translated_errors("checking the server"):
        findings = await check_postgres(connection, config.postgres, config.counters)
    async with redis_client(config) as client:
        findings += await check_redis(client, config.redis.prefix)
    for finding in findings:
        if finding.severity is Severity.WARNING:
            on_event(InitEvent(EventKind.WARNING, finding.title, finding.remedy))
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise NotReadyError(
            "\n".join(map(_as_text, errors)), hint="apply the lines after each '->', then run init again"
        )
    on_event(InitEvent(EventKind.CHECK, "PostgreSQL and Redis are ready"))


async def _require_same_database(config: Config, stored: Stored) -> None:
    """Keep two databases under one prefix apart: the counters of one would be taken for surplus by the other."""
    if (decision := belongs_elsewhere(stored, await current_facts(config))) is not None:
        raise decision.error()


def _as_text(finding: Finding) -> str:
    return f"{finding.title}\n  -> {finding.remedy}"


def _as_init_event(event: InstallEvent) -> InitEvent:
    if event.moment is Moment.WAITING:
        return InitEvent(EventKind.WAITING, event.title, waiting_for(event.blockers))
    return InitEvent(EventKind.STEP if event.moment is Moment.DONE else EventKind.PROGRESS, event.title)


async def _follow_counters(tallies: TallyStore, epoch: str, counters: Sequence[InstalledCounter]) -> int:
    """Make Redis know the counters that are installed, and no others; returns the number of changes."""
    known = await tallies.counters()
    changes = 0
    for counter in counters:
        record = known.get(counter.name)
        if record is None or record.id != counter.id:
            state = CounterState.SEEDING if record is None else CounterState.REBUILDING
            await tallies.set_counter(epoch, record_of(counter, state))
            changes += 1
    for name in known.keys() - {counter.name for counter in counters}:
        await tallies.remove_counter(epoch, name)
        changes += 1
    return changes


async def _seed(config: Config, on_event: OnEvent) -> tuple[str, ...]:
    """Run a consumer until every counter is live; one that runs already does it by itself and is waited for."""
    async with tally_store(config) as tallies:
        waiting = set(_not_live(await tallies.counters()))
        if not waiting:
            return ()
        async with consuming_parts(config, tallies, Metrics()) as parts:
            last_word = "seeded; 'cdc-counter run' is not running"
            try:
                await in_own_task(_until_live(parts, tallies, set(waiting), on_event), "seed")
            except Exception as error:
                last_word = str(error)
                raise
            finally:
                await parts.upkeep.report_stopped(last_word)
    return tuple(sorted(waiting))


async def _until_live(parts: ConsumingParts, tallies: TallyStore, waiting: set[str], on_event: OnEvent) -> None:
    def show(counter: str, what: str, keys: int) -> None:
        on_event(InitEvent(EventKind.PROGRESS, f"seeding {counter}", what, keys or None))

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        healing = group.create_task(parts.healer.run(stop, show), name="healer")
        group.create_task(consume(parts.consumer, stop, [healing]), name="consumer")
        group.create_task(parts.upkeep.run(stop), name="upkeep")
        while waiting:
            if failure := parts.healer.failure:
                raise failure
            for name in sorted(waiting - set(_not_live(await tallies.counters()))):
                on_event(InitEvent(EventKind.STEP, f"seeding {name}", "live"))
                waiting.discard(name)
            await asyncio.sleep(_LOOK_SECONDS)
        stop.set()


def _not_live(records: dict[str, CounterRecord]) -> dict[str, CounterRecord]:
    return {name: record for name, record in records.items() if record.state is not CounterState.LIVE}
