"""Waiting for a condition, with a deadline and a failure that says what was last seen."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_INTERVAL = 0.02
_SLOWNESS = 4
"""Deadlines are written for a quiet machine, and only say when to give up: another one may be so many times slower."""


class DeadlineError(AssertionError):
    """The condition did not hold in time."""


async def eventually(
    condition: Callable[[], Awaitable[T]], what: str, *, deadline: float = 20.0, until: Callable[[T], bool] = bool
) -> T:
    """Return the first result of `condition()` that satisfies `until`; AssertionErrors in it count as not yet."""
    end = time.monotonic() + _SLOWNESS * deadline
    last: object = "nothing yet"
    while True:
        try:
            result = await condition()
            if until(result):
                return result
            last = result
        except AssertionError as error:
            last = error
        if time.monotonic() > end:
            raise DeadlineError(f"waited {_SLOWNESS * deadline:.0f} s for: {what}; last seen: {last!r}")
        await asyncio.sleep(_INTERVAL)


def eventually_sync(condition: Callable[[], T], what: str, *, deadline: float = 20.0) -> T:
    """Return the first true result of `condition()`, for tests without an event loop."""
    end = time.monotonic() + _SLOWNESS * deadline
    while not (result := condition()):
        if time.monotonic() > end:
            raise DeadlineError(f"waited {_SLOWNESS * deadline:.0f} s for: {what}; last seen: {result!r}")
        time.sleep(_INTERVAL)
    return result
