"""Waiting for a condition, with a deadline and a failure that says what was last seen."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_INTERVAL = 0.02
_LONGEST_INTERVAL = 0.2
"""Looks become rarer: most are questions to servers that share the machine with what is waited for."""

_SLOWNESS = 4
"""Deadlines are written for a quiet machine, and only say when to give up: another one may be so many times slower."""


class DeadlineError(AssertionError):
    """The condition did not hold in time."""


async def eventually(
    condition: Callable[[], Awaitable[T]],
    what: str,
    *,
    deadline: float = 20.0,
    until: Callable[[T], bool] = bool,
    slowing: float = 1.2,
) -> T:
    """Return the first result of `condition()` that satisfies `until`; AssertionErrors in it count as not yet.

    Each pause is so many times as long as the last: 1.0 where asking is what makes it come true.
    """
    end = time.monotonic() + _SLOWNESS * deadline
    last: object = "nothing yet"
    interval = _INTERVAL
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
        await asyncio.sleep(interval)
        interval = min(_LONGEST_INTERVAL, slowing * interval)


def eventually_sync(condition: Callable[[], T], what: str, *, deadline: float = 20.0) -> T:
    """Return the first true result of `condition()`, for tests without an event loop."""
    end = time.monotonic() + _SLOWNESS * deadline
    interval = _INTERVAL
    while not (result := condition()):
        if time.monotonic() > end:
            raise DeadlineError(f"waited {_SLOWNESS * deadline:.0f} s for: {what}; last seen: {result!r}")
        time.sleep(interval)
        interval = min(_LONGEST_INTERVAL, 1.2 * interval)
    return result
