"""What `init` and `drop` do, in an order that can be interrupted anywhere and run again.

init: check, objects, slot, epoch, seed. The slot comes after the triggers, so that every delta that is captured from
the slot's start on is streamed; the seed comes last, so that it needs no moment at which nothing is written. Each step
finds out for itself whether it is done.
"""

from collections.abc import Callable

from cdc_counter import failpoints
from cdc_counter.config import Config
from cdc_counter.core.events import EventKind, InitEvent, InitReport
from cdc_counter.failpoints import Failpoint
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.install import plan_objects, remove_objects
from cdc_counter.postgres.installed import installed_counters
from cdc_counter.postgres.slot import find_slot
from cdc_counter.wiring.changes import (
    as_init_event,
    change_objects,
    check_servers,
    make_known,
    read_changes,
    require_same_deployment,
    until_settled,
)
from cdc_counter.wiring.lifetimes import begin_epoch, ensure_slot, remove_slot
from cdc_counter.wiring.parts import admin_connect, conninfo, tally_store

OnEvent = Callable[[InitEvent], None]


async def init(config: Config, on_event: OnEvent, *, reseed: bool = False) -> InitReport:
    """Install what is missing and seed what is not live; when a server is not ready nothing is changed."""
    definitions = config.require_counters()
    settings = config.postgres
    async with connected(conninfo(settings, "init", admin=True)) as connection, tally_store(config) as tallies:
        await check_servers(config, connection, on_event)
        stored = await tallies.load()
        if stored is not None and not reseed:
            await require_same_deployment(config, stored)
        changes = await read_changes(config, connection, tallies, stored)
        changed = await change_objects(config, changes, on_event)
        if reseed:
            await remove_slot(connection, settings.slot, on_event)
        start = await ensure_slot(config, connection, on_event)
        changed += start is not None
        if stored is None or reseed:
            with translated_errors("reading the counters"):
                counters = await installed_counters(connection, settings.schema_name)
            await begin_epoch(config, tallies, stored.epoch.identity if stored else "", start, counters)
            changed += 1
        else:
            changed += await make_known(config, connection, tallies, stored.epoch.identity)
    seeded = await until_settled(config, on_event)
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
        lines += ["", f"-- {step.title}", *step.sql(settings.lock_timeout_ms)]
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
                lambda event: on_event(as_init_event(event)),
                lock_timeout_ms=settings.lock_timeout_ms,
            )
    async with tally_store(config) as tallies:
        keys = await tallies.delete_everything()
        failpoints.reach(Failpoint.KEYS_DELETED)
    on_event(InitEvent(EventKind.STEP, f"removed {keys} {'key' if keys == 1 else 'keys'} from Redis"))
