"""Groups of tasks that fail: as one error, and without a trace in the task that waited for them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from cdc_counter.cancellation import end
from cdc_counter.errors import CdcCounterError


def cause_of(error: BaseException) -> BaseException:
    """Return the error to act on: a bug before an error that can't be retried before one that can."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [cause_of(inner) for inner in error.exceptions]
    return min(leaves, key=_rank)


async def in_own_task(work: Coroutine[Any, Any, None], name: str) -> None:
    """Run `work`, which holds a task group, and raise the one error that ended it.

    Where a member of a group fails, Python 3.11 leaves the task around the group marked as to be cancelled. That task
    is one of its own here, so whoever waits can go on: report, or begin again.
    """
    try:
        await asyncio.create_task(work, name=name)
    except BaseExceptionGroup as errors:
        raise cause_of(errors) from None


async def unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Run `work` to its end, or cancel it when `stop` is set."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        await end((working, stopped))


def _rank(error: BaseException) -> int:
    if isinstance(error, asyncio.CancelledError):
        return 3
    if isinstance(error, CdcCounterError):
        return 2 if error.retry else 1
    return 0
