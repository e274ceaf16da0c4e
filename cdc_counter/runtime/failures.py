"""Finds the one error that ended a group of tasks."""

import asyncio

from cdc_counter.errors import CdcCounterError


def cause_of(error: BaseException) -> BaseException:
    """Return the error to act on: a bug before an error that can't be retried before one that can."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [cause_of(inner) for inner in error.exceptions]
    return min(leaves, key=_rank)


def _rank(error: BaseException) -> int:
    if isinstance(error, asyncio.CancelledError):
        return 3
    if isinstance(error, CdcCounterError):
        return 2 if error.retry else 1
    return 0
