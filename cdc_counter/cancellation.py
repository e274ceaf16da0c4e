"""Cancellation that can't get lost.

Up to Python 3.11 `asyncio.wait_for` returns its result and drops a cancellation that arrives at the same moment, and
the Redis and PostgreSQL clients wait with it. A loop around their calls would then run for ever in a group that waits
for its end. So whatever loops over such calls asks here after each of them.
"""

import asyncio


def honour_cancellation() -> None:
    """Raise CancelledError if the current task was asked to end, however long ago."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
