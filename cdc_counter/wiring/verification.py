"""What `verify` and `repair` do: ask the running consumer through Redis, or be the consumer where none runs."""

import asyncio
import getpass
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from cdc_counter.cancellation import end
from cdc_counter.config import Config
from cdc_counter.core.events import EventKind, InitEvent
from cdc_counter.core.request import Failed, Finished, Progress, Request, Wish
from cdc_counter.core.status import Phase, readiness
from cdc_counter.core.verification import LedgerEntry, Verdict, Verification, VerifyReport
from cdc_counter.errors import BusyError, CdcCounterError, ExitCode, InconclusiveError, UnreachableError
from cdc_counter.metrics import Metrics
from cdc_counter.postgres.connection import connected
from cdc_counter.postgres.ledger import transactions_of
from cdc_counter.runtime.answering import fulfil
from cdc_counter.runtime.failures import in_own_task
from cdc_counter.tallies.verifications import Verifications
from cdc_counter.wiring.parts import (
    ConsumingParts,
    conninfo,
    consume,
    consuming_parts,
    redis_client,
    requests,
    source,
    tally_store,
)

OnEvent = Callable[[InitEvent], None]

_LOOK_SECONDS: Final = 0.1
_WORTH_A_LINE: Final = 1.0

_LEDGER_KEYS: Final = 5
"""Drifted keys whose transactions are looked up: each reads the whole ledger."""

_LEDGER_ENTRIES: Final = 5


async def verify(
    config: Config,
    *,
    counters: Sequence[str] = (),
    scope: str | None = None,
    on_event: OnEvent | None = None,
    silence_seconds: float = 10.0,
) -> VerifyReport:
    """Compare the counters named, or all, with a recount.

    Raises UnreachableError when a running consumer says nothing for `silence_seconds`, and what makes verifying
    impossible.
    """
    return await _carry_out(config, Wish.VERIFY, counters, scope, on_event or _ignore, silence_seconds)


async def repair(
    config: Config,
    *,
    counters: Sequence[str] = (),
    on_event: OnEvent | None = None,
    silence_seconds: float = 10.0,
) -> VerifyReport:
    """Verify the counters named, or all, subtract what drift there is, and verify those again."""
    return await _carry_out(config, Wish.REPAIR, counters, None, on_event or _ignore, silence_seconds)


async def repairs(config: Config, count: int = 100) -> list[dict[str, Any]]:
    """Return the newest entries of the journal of repairs."""
    async with redis_client(config) as client:
        return await Verifications(client, config.redis.prefix).repairs(count)


async def _carry_out(
    config: Config, wish: Wish, counters: Sequence[str], scope: str | None, on_event: OnEvent, silence_seconds: float
) -> VerifyReport:
    request = Request(
        id=secrets.token_hex(8),
        wish=wish,
        counters=await _known(config, counters),
        scope=scope,
        by=_who(),
    )
    found = []
    work = (
        _ask(config, request, on_event, silence_seconds)
        if await _consumer_runs(config)
        else _work_alone(config, request, on_event)
    )
    async with aclosing(work):
        async for verification in work:
            found.append(verification)
            on_event(_as_step(wish, verification))
    return VerifyReport(tuple(found), await _ledger(config, found))


_DOING: Final = {Wish.VERIFY: "verifying", Wish.REPAIR: "repairing"}


def _ignore(_event: InitEvent) -> None:
    pass


async def _known(config: Config, counters: Sequence[str]) -> tuple[str, ...]:
    reader = source(config)
    try:
        installed = [record.name for record in await reader.counters()]
    finally:
        await reader.aclose()
    if not installed:
        raise UnreachableError(
            f"redis has no counters under prefix {config.redis.prefix!r}",
            hint="check redis.url and redis.prefix, or run 'cdc-counter init'",
        )
    for name in counters:
        if name not in installed:
            raise CdcCounterError(f"counter {name!r} is not installed", hint=f"choose from {', '.join(installed)}")
    return tuple(counters) or tuple(installed)


async def _consumer_runs(config: Config) -> bool:
    reader = source(config)
    try:
        status = await reader.status()
    finally:
        await reader.aclose()
    return readiness(status, time.time()) is None or (
        status is not None and status.phase is not Phase.STOPPED and time.time() - status.reported_at < _FRESH_SECONDS
    )


_FRESH_SECONDS: Final = 3.0
"""A consumer that connects reports every second, too."""


async def _ask(
    config: Config, request: Request, on_event: OnEvent, silence_seconds: float
) -> AsyncGenerator[Verification, None]:
    async with requests(config) as asked:
        await asked.ask(request, silence_seconds)
        heard_at = time.monotonic()
        while True:
            answer = await asked.hear(request)
            if answer is None and time.monotonic() - heard_at > silence_seconds:
                raise UnreachableError(
                    f"the running consumer has said nothing for {silence_seconds:g} s",
                    hint="see 'cdc-counter status', then run the command again",
                )
            heard_at = time.monotonic() if answer is not None else heard_at
            match answer:
                case Progress():
                    on_event(_as_event(request.wish, answer))
                case Verification():
                    yield answer
                case Failed():
                    raise _as_error(answer)
                case Finished():
                    return
                case None:
                    continue


async def _work_alone(config: Config, request: Request, on_event: OnEvent) -> AsyncGenerator[Verification, None]:
    """Stream the slot for as long as the work takes."""
    found: asyncio.Queue[Verification | None] = asyncio.Queue()
    async with tally_store(config) as tallies, consuming_parts(config, tallies, Metrics()) as parts:
        working = asyncio.create_task(
            in_own_task(_reconcile(parts, request, on_event, found), "reconcile"), name="reconcile alone"
        )
        try:
            working.add_done_callback(lambda _: found.put_nowait(None))
            while (verification := await found.get()) is not None:
                yield verification
            await working
        finally:
            await end([working])
            await parts.upkeep.report_stopped(f"{request.wish.value} is done; 'cdc-counter run' is not running")


async def _reconcile(
    parts: ConsumingParts, request: Request, on_event: OnEvent, found: "asyncio.Queue[Verification | None]"
) -> None:
    begun: dict[str, float] = {}

    def show(counter: str, what: str, done: int, total: int) -> None:
        # What takes no time is not worth a line, as when a running consumer is asked.
        if time.monotonic() - begun.setdefault(counter, time.monotonic()) > _WORTH_A_LINE:
            on_event(_as_event(request.wish, Progress(counter, what, done, total)))

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(consume(parts.consumer, stop, []), name="consumer")
        group.create_task(parts.watch.run(stop), name="watch")
        group.create_task(parts.upkeep.run(stop), name="upkeep")
        while parts.consumer.session is None:
            if parts.consumer.phase is Phase.WAITING_FOR_SLOT:
                raise BusyError(parts.consumer.detail)
            await asyncio.sleep(_LOOK_SECONDS)
        for name in request.counters:
            found.put_nowait(await fulfil(parts.reconciler, request, name, show))
        stop.set()


def _who() -> str:
    """Return who asks, for log and journal. In a container the user may have no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _as_step(wish: Wish, verification: Verification) -> InitEvent:
    title = f"{_DOING[wish]} {verification.counter}"
    if verification.verdict is not Verdict.EQUAL:
        return InitEvent(EventKind.WARNING, f"{title}: {verification.verdict}")
    repaired = f", {verification.repaired:,} keys repaired" if verification.repaired else ""
    return InitEvent(EventKind.STEP, title, f"equal{repaired}")


def _as_event(wish: Wish, progress: Progress) -> InitEvent:
    title = f"{_DOING[wish]} {progress.counter}".strip()
    return InitEvent(EventKind.PROGRESS, title, progress.what, progress.done or None, progress.total or None)


def _as_error(failed: Failed) -> CdcCounterError:
    kinds = {ExitCode.INCONCLUSIVE: InconclusiveError, ExitCode.UNREACHABLE: UnreachableError}
    return kinds.get(ExitCode(failed.exit_code), CdcCounterError)(failed.message, hint=failed.hint)


async def _ledger(config: Config, found: Sequence[Verification]) -> dict[tuple[str, str, str], tuple[LedgerEntry, ...]]:
    keys = [
        (verification.counter, key.scope, key.bucket)
        for verification in found
        if verification.verdict is Verdict.DRIFT
        for key in verification.drifts
    ][:_LEDGER_KEYS]
    if not keys:
        return {}
    async with connected(conninfo(config.postgres, "ledger")) as connection:
        schema = config.postgres.schema_name
        return {key: await transactions_of(connection, schema, key, _LEDGER_ENTRIES) for key in keys}
