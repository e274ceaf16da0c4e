"""The helpdesk's other users: a few connections that keep changing the table until they are told to stop."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from cdc_counter.demo.actions import SCOPES, TRAFFIC, perform
from cdc_counter.resources import sql_blocks

WRITERS = 4
MEAN_PAUSE_SECONDS = 0.25
"""Of one writer between two transactions: together about 15 transactions a second, enough to see numbers move."""

_RECONNECT_SECONDS = 0.5

_log = logging.getLogger("cdc_counter.demo")


@asynccontextmanager
async def writing(dsn: str) -> AsyncIterator[None]:
    """Change the helpdesk's tables from several connections while the block runs."""
    stop = asyncio.Event()
    writers = [asyncio.create_task(_writer(dsn, stop), name=f"writer {number}") for number in range(WRITERS)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*writers)


async def _writer(dsn: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                while not await _stopped_within(stop, random.expovariate(1 / MEAN_PAUSE_SECONDS)):
                    await _one_change(connection)
        except psycopg.OperationalError as error:
            # The demo's PostgreSQL may be restarted by whoever plays with it.
            _log.info("traffic lost its connection: %s", error)
            await _stopped_within(stop, _RECONNECT_SECONDS)


async def _one_change(connection: psycopg.AsyncConnection) -> None:
    running = await (await connection.execute("SELECT running FROM helpdesk.demo_traffic")).fetchone()
    if running is None or not running[0]:
        return
    [action] = random.choices(TRAFFIC, [action.weight for action in TRAFFIC])  # noqa: S311  no secret
    try:
        await perform(connection, action, random.choice(SCOPES), "traffic")  # noqa: S311  no secret
    except (psycopg.errors.DeadlockDetected, psycopg.errors.ForeignKeyViolation) as error:
        # Rolled back, as in any application; the counters must not mind.
        _log.info("traffic: %s", error)
    await connection.execute(sql_blocks("demo")["trim_activity"].encode())


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()
