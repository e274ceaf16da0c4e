"""Changes the counters of a live system: what `plan` shows, `apply` carries out, and `init` too.

Owns the order. The database first, for only what is captured may be counted; then Redis is made to know the counters
that the database captures; then whoever streams, a daemon or this process, counts and clears up. Killed anywhere it is
run again; a daemon goes on with whatever the database has already.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from cdc_counter import failpoints
from cdc_counter.config import Config
from cdc_counter.core.changes import Act, ChangePlan, follow
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.events import EventKind, InitEvent, InitReport
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.core.lifecycle import Loss, Stored, belongs_elsewhere
from cdc_counter.core.outcome import Applied, Outcome
from cdc_counter.core.reading import CounterState
from cdc_counter.errors import BusyError, NotReadyError
from cdc_counter.failpoints import Failpoint
from cdc_counter.metrics import Metrics
from cdc_counter.postgres.connection import connected, translated_errors
from cdc_counter.postgres.install import InstallEvent, Moment, execute, plan_objects
from cdc_counter.postgres.installed import installed_counters
from cdc_counter.postgres.readiness import check_postgres
from cdc_counter.postgres.slot import find_slot
from cdc_counter.postgres.steps import Plan
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.failures import in_own_task
from cdc_counter.tallies.readiness import check_redis
from cdc_counter.tallies.store import TallyStore
from cdc_counter.wiring.lifetimes import current_facts, waiting_for
from cdc_counter.wiring.parts import (
    ConsumingParts,
    admin_connect,
    conninfo,
    consume,
    consuming_parts,
    redis_client,
    tally_store,
)
from cdc_counter.wiring.rebuilding import Rebuilder

OnEvent = Callable[[InitEvent], None]

_LOOK_SECONDS: Final = 0.3
"""Between looks at what a daemon does; of what this process has counted there is news."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The plan as it is carried out, and as it is shown."""

    objects: Plan
    shown: ChangePlan


async def plan(config: Config) -> ChangePlan:
    """Return what `apply` would do; changes nothing."""
    config.require_counters()
    async with connected(conninfo(config.postgres, "plan", admin=True)) as connection, tally_store(config) as tallies:
        stored = await tallies.load()
        if stored is not None:
            await require_same_deployment(config, stored)
        return (await read_changes(config, connection, tallies, stored)).shown


async def apply(config: Config, on_event: OnEvent, on_plan: Callable[[ChangePlan], None]) -> InitReport:
    """Bring an installed system to what is declared, while it runs; returns when every counter is live.

    `on_plan` is called before anything is changed. Raises NotReadyError where nothing is installed.
    """
    definitions = config.require_counters()
    async with connected(conninfo(config.postgres, "apply", admin=True)) as connection, tally_store(config) as tallies:
        stored = await tallies.load()
        if stored is None or await find_slot(connection, config.postgres.slot) is None:
            missing = "tallies in Redis" if stored is None else f"slot {config.postgres.slot!r}"
            raise NotReadyError(
                f"nothing is installed that could be changed: no {missing}", hint="run 'cdc-counter init'"
            )
        await check_servers(config, connection, on_event)
        await require_same_deployment(config, stored)
        changes = await read_changes(config, connection, tallies, stored)
        on_plan(changes.shown)
        changed = await change_objects(config, changes, on_event)
        changed += await make_known(config, connection, tallies, stored.epoch.identity)
    settled = await until_settled(config, on_event)
    names = tuple(definition.name for definition in definitions)
    return InitReport(changed, names, settled, stored.epoch.identity, changes.shown.named(Act.REMOVE))


async def read_changes(
    config: Config, connection: AsyncConnection[Any], tallies: TallyStore, stored: Stored | None
) -> Changes:
    """Compare what is declared with what is there."""
    settings = config.postgres
    # Read before the database is: what it lacks then was removed, and is not about to come.
    known = await tallies.counters() if stored is not None else {}
    with translated_errors("planning"):
        objects = await plan_objects(connection, settings.schema_name, settings.publication, config.counters)
        captured = await installed_counters(connection, settings.schema_name)
        slot = await find_slot(connection, settings.slot)
    following = follow(known, captured, time.time())
    shown = ChangePlan(
        counters=objects.counters,
        tables=objects.tables,
        steps=tuple(step.title for step in objects.steps),
        slot="" if slot is not None else settings.slot,
        has_tallies=stored is not None,
        unknown=tuple(beginning.record.name for beginning in following.begun) if stored is not None else (),
        forgotten=tuple(record.name for record in following.gone),
    )
    return Changes(objects, shown)


async def change_objects(config: Config, changes: Changes, on_event: OnEvent) -> int:
    """Carry out the database's part; returns the number of steps."""
    await execute(
        changes.objects,
        admin_connect(config),
        lambda event: on_event(as_init_event(event)),
        lock_timeout_ms=config.postgres.lock_timeout_ms,
    )
    return len(changes.objects.steps)


async def make_known(config: Config, connection: AsyncConnection[Any], tallies: TallyStore, epoch: str) -> int:
    """Make Redis know the counters that the database captures, and no others; returns the number of changes.

    Raises BusyError when somebody else does the same, or has begun another epoch.
    """
    known = await tallies.counters()
    with translated_errors("reading the counters"):
        captured = await installed_counters(connection, config.postgres.schema_name)
    following = follow(known, captured, time.time())
    for beginning in following.begun:
        _require_applied(await tallies.begin_counter(epoch, beginning))
        failpoints.reach(Failpoint.COUNTER_KNOWN)
    for record in following.gone:
        _require_applied(await tallies.remove_counter(epoch, record))
        failpoints.reach(Failpoint.COUNTER_FORGOTTEN)
    return following.changes


async def check_servers(config: Config, connection: AsyncConnection[Any], on_event: OnEvent) -> None:
    """Raise NotReadyError, with every remedy, where a server lacks what is needed."""
    with translated_errors("checking the server"):
        findings = await check_postgres(connection, config.postgres, config.counters)
    async with redis_client(config) as client:
        findings += await check_redis(client, config.redis)
    for finding in findings:
        if finding.severity is Severity.WARNING:
            on_event(InitEvent(EventKind.WARNING, finding.title, finding.remedy))
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise NotReadyError(
            "\n".join(map(_as_text, errors)), hint="apply the lines after each '->', then run the command again"
        )
    on_event(InitEvent(EventKind.CHECK, "PostgreSQL and Redis are ready"))


async def require_same_deployment(config: Config, stored: Stored) -> None:
    """Keep two deployments under one prefix apart: the counters of one would be taken for surplus by the other."""
    if (decision := belongs_elsewhere(stored, await current_facts(config), config.postgres.slot)) is not None:
        raise decision.error()


async def until_settled(config: Config, on_event: OnEvent) -> tuple[str, ...]:
    """Run a consumer until every counter is live and what removed ones left is gone; returns those that were counted.

    A daemon that runs already does it by itself and is waited for.
    """
    async with tally_store(config) as tallies:
        waiting = set(_not_live(await tallies.counters()))
        if not waiting and not await tallies.removed():
            return ()
        # A slot that was just made may be one that nobody can decode. Whoever runs a command decides about all else.
        rebuild = Rebuilder(config, tallies).rebuild if config.stream.rebuild else None
        mends = frozenset({Loss.SLOT_UNDECODABLE})
        async with consuming_parts(config, tallies, Metrics(), rebuild, mends=mends) as parts:
            last_word = "settled; 'cdc-counter run' is not running"
            try:
                await in_own_task(_settle(parts, tallies, set(waiting), on_event), "settle")
            except Exception as error:
                last_word = str(error)
                raise
            finally:
                await parts.upkeep.report_stopped(last_word)
    return tuple(sorted(waiting))


async def _settle(parts: ConsumingParts, tallies: TallyStore, waiting: set[str], on_event: OnEvent) -> None:
    def show(counter: str, what: str, keys: int) -> None:
        on_event(InitEvent(EventKind.PROGRESS, f"seeding {counter}", what, keys or None))

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        beside = [
            group.create_task(parts.healer.run(stop, show), name="healer"),
            group.create_task(parts.follower.run(stop), name="follower"),
        ]
        group.create_task(consume(parts.consumer, stop, beside), name="consumer")
        group.create_task(parts.watch.run(stop), name="watch")
        group.create_task(parts.upkeep.run(stop), name="upkeep")
        while True:
            parts.healer.news.clear()
            if failure := parts.healer.failure:
                raise failure
            unsettled = _not_live(await tallies.counters())
            # Where the slot had to be replaced, also what was live already.
            waiting |= {name for name, record in unsettled.items() if record.awaits_seed}
            for name in sorted(waiting - unsettled.keys()):
                on_event(InitEvent(EventKind.STEP, f"seeding {name}", "live"))
                waiting.discard(name)
            for name in sorted(waiting):
                record = unsettled[name]
                if record.reason and record.state is not CounterState.REBUILDING:
                    on_event(InitEvent(EventKind.WAITING, f"seeding {name}", record.reason))
            if not waiting and not await tallies.removed():
                break
            await pause(_LOOK_SECONDS, parts.healer.news)
        stop.set()


def _not_live(records: dict[str, CounterRecord]) -> dict[str, CounterRecord]:
    return {name: record for name, record in records.items() if record.state is not CounterState.LIVE}


def _require_applied(outcome: Outcome) -> None:
    if not isinstance(outcome, Applied):
        raise BusyError(f"the counters in redis were changed by somebody else: {outcome}", hint="run the command again")


def _as_text(finding: Finding) -> str:
    return f"{finding.title}\n  -> {finding.remedy}"


def as_init_event(event: InstallEvent) -> InitEvent:
    """Return what is shown of one step's progress."""
    if event.moment is Moment.WAITING:
        return InitEvent(EventKind.WAITING, event.title, waiting_for(event.blockers))
    return InitEvent(EventKind.STEP if event.moment is Moment.DONE else EventKind.PROGRESS, event.title)
