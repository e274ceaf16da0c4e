"""What `run` runs: consumer, gateway or both in one process, until told to stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from cdc_counter.config import Config
from cdc_counter.core.events import EventKind, InitEvent
from cdc_counter.core.fuse import Fuse
from cdc_counter.core.role import Role
from cdc_counter.garbage import rarely_collected
from cdc_counter.metrics import Metrics
from cdc_counter.runtime.failures import in_own_task
from cdc_counter.wiring.inspection import Inspection
from cdc_counter.wiring.lifetimes import give_up_slot
from cdc_counter.wiring.parts import ConsumingParts, consume, consuming_parts, source, tally_store
from cdc_counter.wiring.rebuilding import Rebuilder

if TYPE_CHECKING:
    from aiohttp.web import AbstractRouteDef

    from cdc_counter.gateway import Gateway

_log = logging.getLogger(__name__)

OnEvent = Callable[[InitEvent], None]


async def run(
    config: Config,
    stop: asyncio.Event,
    *,
    role: Role = Role.ALL,
    on_event: OnEvent | None = None,
    gateway_routes: "Iterable[AbstractRouteDef]" = (),
) -> None:
    """Run until `stop`, then drain; raises the error that can't be retried.

    `gateway_routes` are served beside the gateway's own.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        parts = None if role is Role.GATEWAY else await stack.enter_async_context(_consuming(config, metrics))
        gateway = None
        if role is not Role.CONSUMER:
            # A consumer alone needs no web server: a quarter of its start.
            from cdc_counter.gateway import Gateway  # noqa: PLC0415

            reader = source(config)
            stack.push_async_callback(reader.aclose)
            gateway = Gateway(config.gateway, reader, metrics)
            gateway.app.add_routes(gateway_routes)
        last_word = "told to stop"
        try:
            with rarely_collected():
                await in_own_task(_all_of_it(config, stop, parts, gateway, on_event or _log_event), "run")
        except Exception as error:
            last_word = str(error)
            raise
        finally:
            if parts is not None:
                await parts.upkeep.report_stopped(last_word)


async def _all_of_it(
    config: Config, stop: asyncio.Event, parts: ConsumingParts | None, gateway: "Gateway | None", on_event: OnEvent
) -> None:
    async with asyncio.TaskGroup() as group:
        if parts is not None:
            inspection = Inspection(config, parts.consumer, parts.healer, parts.tallies)
            beside = [
                group.create_task(parts.healer.run(stop, _log_progress), name="healer"),
                group.create_task(parts.follower.run(stop), name="follower"),
                group.create_task(inspection.run(stop), name="inspection"),
                group.create_task(parts.verifying.run(stop), name="verifying"),
                group.create_task(parts.answering.run(stop), name="answering"),
            ]
            group.create_task(consume(parts.consumer, stop, beside), name="consumer")
            group.create_task(parts.watch.run(stop), name="watch")
            group.create_task(parts.upkeep.run(stop), name="upkeep")
        if gateway is not None:
            group.create_task(gateway.run(stop), name="gateway")
            group.create_task(_announce(gateway, on_event), name="announce")


@asynccontextmanager
async def _consuming(config: Config, metrics: Metrics) -> AsyncIterator[ConsumingParts]:
    async with tally_store(config) as tallies:
        rebuild = Rebuilder(config, tallies).rebuild if config.stream.rebuild else None
        settings = config.postgres
        fuse = Fuse(settings.fuse_wal_mb, settings.fuse_hours)
        give_up = partial(give_up_slot, config)
        async with consuming_parts(config, tallies, metrics, rebuild, fuse=fuse, give_up=give_up) as parts:
            yield parts


async def _announce(gateway: "Gateway", on_event: OnEvent) -> None:
    await gateway.ready.wait()
    on_event(InitEvent(EventKind.STEP, f"gateway answers on {gateway.url}"))


def _log_event(event: InitEvent) -> None:
    _log.info("%s", event.title)


def _log_progress(counter: str, what: str, keys: int) -> None:
    _log.debug("seeding %s: %s, %d", counter, what, keys)
