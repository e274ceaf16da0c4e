"""Carries out a plan on a live database without queueing the application's writers.

Every step waits for a lock at most as long as it is told to, gives way, names who is in the way and tries
again. A step is one transaction: killed anywhere, what is left is a plan of fewer steps.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from cdc_counter import failpoints
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.errors import BusyError, CdcCounterError, DefinitionError, NotReadyError, RefusedError
from cdc_counter.failpoints import Failpoint
from cdc_counter.postgres.blockers import Blocker, blockers_of
from cdc_counter.postgres.connection import translate, translated_errors
from cdc_counter.postgres.installed import read_installed
from cdc_counter.postgres.plan import healing_plan, make_plan, removal_plan
from cdc_counter.postgres.probe import ProbedCounter, probe
from cdc_counter.postgres.relations import relation_exists
from cdc_counter.postgres.rendering import raw
from cdc_counter.postgres.steps import LOCK_TIMEOUT_MS, Plan, Step

_log = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[AsyncConnection[Any]]]

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
"""Seconds. With the lock timeout of 0.1 s, writers wait at most a fiftieth of the time once this is reached."""

_LOOK_AFTER: Final = 0.03
"""Seconds into a wait at which blockers are asked for: well before the lock timeout ends it."""


class Moment(Enum):
    """What an event of an installation tells."""

    STARTED = "started"
    WAITING = "waiting"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class InstallEvent:
    """Progress of one step. `attempt` counts from 1; `blockers` are who kept the last attempt from its lock."""

    moment: Moment
    title: str
    attempt: int = 1
    blockers: tuple[Blocker, ...] = ()


OnEvent = Callable[[InstallEvent], None]


async def probe_all(
    connection: AsyncConnection[Any], schema: str, definitions: Sequence[CounterDefinition]
) -> list[ProbedCounter]:
    """Return what each declaration means; raises DefinitionError for the first that can't be kept exact."""
    return [await probe(connection, definition, schema) for definition in definitions]


async def plan_objects(
    connection: AsyncConnection[Any], schema: str, publication: str, definitions: Sequence[CounterDefinition]
) -> Plan:
    """Return the steps that install the declared counters and remove others; changes nothing."""
    with translated_errors("planning"):
        probed = await probe_all(connection, schema, definitions)
        return make_plan(schema, publication, probed, await read_installed(connection, schema, publication))


async def plan_healing(connection: AsyncConnection[Any], schema: str, publication: str, table: int) -> Plan:
    """Return the steps that close the holes of one counted table, given by oid, for its counters as they are installed.

    Raises DefinitionError when they can't be kept exact on it any more.
    """
    with translated_errors("planning"):
        installed = await read_installed(connection, schema, publication)
        affected = [counter for counter in installed.counters if counter.relation == table]
        probed = await probe_all(connection, schema, [counter.definition for counter in affected])
        there = await relation_exists(connection, table)
        for counter in probed if there else []:
            if counter.relation.oid != table:
                raise DefinitionError(
                    f"counter {counter.definition.name!r}: table {counter.definition.table!r} is another one now",
                    hint="name the table that is meant in the configuration and run 'cdc-counter apply'",
                )
        # A table that was dropped and made again may have other counters by now.
        resolved = {counter.relation.oid for counter in probed}
        others = [c for c in installed.counters if c.relation in resolved and c.relation != table]
        probed += await probe_all(connection, schema, [counter.definition for counter in others])
        return healing_plan(schema, probed, installed)


async def execute(
    plan: Plan,
    connect: Connect,
    on_event: OnEvent,
    *,
    attempts: int | None = None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> None:
    """Carry out a plan, step by step, waiting for locks as long as it takes, or so many attempts for each.

    Raises BusyError when the database changed since the plan was made: plan again.
    """
    if plan.is_empty:
        return
    async with await connect() as connection, await connect() as watcher:
        with translated_errors("installing"):
            await connection.execute(raw(f"SET lock_timeout = '{lock_timeout_ms}ms'"))
        for step in plan.steps:
            await _carry_out(step, connection, watcher, on_event, attempts)


async def remove_objects(
    connection: AsyncConnection[Any],
    connect: Connect,
    schema: str,
    publication: str,
    on_event: OnEvent,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> None:
    """Remove everything of ours from a database. The slot must be gone before: it would hold back WAL for ever."""
    with translated_errors("reading what is installed"):
        installed = await read_installed(connection, schema, publication)
    await execute(removal_plan(schema, publication, installed), connect, on_event, lock_timeout_ms=lock_timeout_ms)


async def _carry_out(
    step: Step,
    connection: AsyncConnection[Any],
    watcher: AsyncConnection[Any],
    on_event: OnEvent,
    attempts: int | None,
) -> None:
    on_event(InstallEvent(Moment.STARTED, step.title))
    pause = _FIRST_PAUSE
    attempt = 1
    while True:
        blockers = await _attempt(step, connection, watcher)
        if blockers is None:
            failpoints.reach(Failpoint.DATABASE_STEP)
            on_event(InstallEvent(Moment.DONE, step.title, attempt))
            return
        on_event(InstallEvent(Moment.WAITING, step.title, attempt, blockers))
        if attempt == attempts:
            who = "; ".join(map(str, blockers)) or "somebody"
            raise BusyError(f"{step.title}: {who} holds a lock")
        # Jitter: two installations must not keep meeting each other.
        await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - not a secret
        pause = min(pause * 1.5, _LONGEST_PAUSE)
        attempt += 1


async def _attempt(
    step: Step, connection: AsyncConnection[Any], watcher: AsyncConnection[Any]
) -> tuple[Blocker, ...] | None:
    """Run the step once; return None when it is done, else who was in the way."""
    seen: list[tuple[Blocker, ...]] = []
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_watch(watcher, connection.info.backend_pid, ended, seen), name="lock watch")
        error = await _transaction(step, connection)
        ended.set()
    match error:
        case None:
            return None
        case psycopg.errors.LockNotAvailable() | psycopg.errors.DeadlockDetected():
            return seen[-1] if seen else ()
    raise _explained(step, error) from error


async def _transaction(step: Step, connection: AsyncConnection[Any]) -> psycopg.Error | None:
    """Return the error instead of raising it, for it is judged when the watch has ended."""
    try:
        async with connection.transaction():
            for statement in (*step.prologue, *step.statements):
                await connection.execute(raw(statement))
    except psycopg.Error as error:
        return error
    return None


def _explained(step: Step, error: psycopg.Error) -> CdcCounterError:
    message = f"{step.title}: {error.diag.message_primary or error}"
    match error:
        case psycopg.errors.ObjectInUse() | psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return BusyError(message, hint="a table changed meanwhile; run the command again")
        case psycopg.errors.UniqueViolation():
            return BusyError(
                f"{step.title}: another installation is running", hint="wait for it, then run the command again"
            )
        case psycopg.errors.InsufficientPrivilege():
            return NotReadyError(
                message, hint="run this as the owner of the counted tables, with CREATE on the database"
            )
        case psycopg.errors.DependentObjectsStillExist():
            return RefusedError(
                f"{message}: {error.diag.message_detail}", hint="drop or move what depends on it, then run this again"
            )
    return translate(error, step.title)


async def _watch(
    watcher: AsyncConnection[Any], pid: int, ended: asyncio.Event, seen: list[tuple[Blocker, ...]]
) -> None:
    """Note who `pid` waits for until the attempt has ended."""
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _LOOK_AFTER)
            return
        try:
            blockers = await blockers_of(watcher, pid)
        except psycopg.Error as error:
            _log.warning("can't tell who holds the lock: %s", error)
            return
        if blockers:
            seen.append(blockers)
