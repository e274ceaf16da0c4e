"""Cancellation that can't get lost.

Up to Python 3.11 `asyncio.wait_for` returns its result and drops a cancellation that arrives at the same moment, and
the Redis and PostgreSQL clients wait with it. A loop around their calls would then run for ever in a group that waits
for its end. So whatever loops over such calls asks here after each of them.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_PATIENCE: Final = 1.0
"""Seconds after which a task that was asked to end is asked again."""


def honour_cancellation() -> None:
    """Raise CancelledError if the current task was asked to end, however long ago."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks, again and again, until each has ended. How they ended does not matter any more.

    Once is not enough: a task that dropped it and then waits for something that never comes would never end.
    """
    ending = list(tasks)
    while running := [task for task in ending if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_PATIENCE)
    await asyncio.gather(*ending, return_exceptions=True)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; raises TimeoutError when it takes longer, once it has ended.

    Unlike `asyncio.timeout` it asks again and again: psycopg answers the first cancellation by waiting for the server.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        await end([task])
    if not done:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return task.result()
