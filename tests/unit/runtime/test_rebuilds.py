"""When a consumer rebuilds, how often, and when it gives up. What it rebuilds from is tested on real servers."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from cdc_counter.core.eviction import Evictions
from cdc_counter.core.fuse import Fuse
from cdc_counter.core.lifecycle import Loss, LostError, Stored
from cdc_counter.core.status import Phase
from cdc_counter.errors import NotReadyError, ReseedNeededError
from cdc_counter.metrics import Metrics
from cdc_counter.runtime.applier import SupersededError
from cdc_counter.runtime.backoff import Backoff
from cdc_counter.runtime.consumer import Consumer, ConsumerSettings, Rebuild

SETTINGS = ConsumerSettings("s", ("cdc_counter", "outbox"), 1000, 1.0, 10.0, Fuse())


class Empty:
    """Tallies that are gone."""

    async def load(self) -> Stored | None:
        return None

    async def evictions(self) -> Evictions:
        return Evictions("run", 0, "noeviction")


async def slot_is_gone() -> Any:
    raise LostError(Loss.SLOT_GONE, "slot 's' does not exist any more")


class Rebuilding:
    """Counts calls and never helps; raises what it is given first."""

    def __init__(self, *errors: Exception) -> None:
        self.calls: list[tuple[Loss, str]] = []
        self._errors = list(errors)

    async def __call__(self, loss: Loss, reason: str, seen: Stored | None, show: Callable[[str], None]) -> None:
        assert seen is None
        show("at work")
        self.calls.append((loss, reason))
        if self._errors:
            raise self._errors.pop(0)


def consumer(rebuild: Rebuild | None) -> Consumer:
    made = Consumer(SETTINGS, slot_is_gone, cast("Any", None), cast("Any", Empty()), Metrics(), rebuild)
    made._rebuild_pauses = Backoff(0.001, 0.002)
    return made


async def test_it_gives_up_when_nothing_comes_back() -> None:
    rebuild = Rebuilding()
    with pytest.raises(ReseedNeededError, match=r"rebuilt 10 times in a row, and again: slot 's' does not exist"):
        await consumer(rebuild).run(asyncio.Event())
    assert rebuild.calls == [(Loss.SLOT_GONE, "slot 's' does not exist any more")] * 10


async def test_it_ends_at_once_where_rebuilding_is_off_or_impossible() -> None:
    with pytest.raises(LostError):
        await consumer(None).run(asyncio.Event())
    rebuild = Rebuilding(NotReadyError("may not be created"))
    with pytest.raises(NotReadyError):
        await consumer(rebuild).run(asyncio.Event())
    assert len(rebuild.calls) == 1


async def test_an_attempt_that_somebody_else_overtook_is_no_rebuild() -> None:
    rebuild = Rebuilding(SupersededError("another epoch"), SupersededError("another epoch"))
    with pytest.raises(ReseedNeededError, match="rebuilt 10 times"):
        await consumer(rebuild).run(asyncio.Event())
    assert len(rebuild.calls) == 12


async def test_a_stop_ends_a_rebuild_that_waits() -> None:
    stop, ended = asyncio.Event(), []

    async def wait(loss: Loss, reason: str, seen: Stored | None, show: Callable[[str], None]) -> None:
        show("waiting for pid 1")
        stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(reason)

    waiting = consumer(wait)
    async with asyncio.timeout(30):
        await waiting.run(stop)
    assert (len(ended), waiting.phase) == (1, Phase.STOPPED)
