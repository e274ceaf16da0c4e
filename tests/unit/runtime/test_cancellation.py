"""A cancellation that a library dropped still ends the loop that called it."""

import asyncio

import pytest

from cdc_counter.cancellation import end, honour_cancellation, within
from cdc_counter.runtime.backoff import pause


async def _drops_one_cancellation(entered: asyncio.Event) -> None:
    """Behave as `asyncio.wait_for` of Python 3.11 does when its result and a cancellation come together."""
    entered.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def _cancelled_while(loop_body: "asyncio.Task[None]", entered: asyncio.Event) -> None:
    await entered.wait()
    loop_body.cancel()
    await asyncio.wait({loop_body}, timeout=5)


async def test_a_lost_cancellation_is_noticed_at_the_next_question() -> None:
    entered = asyncio.Event()

    async def loops() -> None:
        while True:
            await _drops_one_cancellation(entered)
            honour_cancellation()

    task = asyncio.create_task(loops())
    await _cancelled_while(task, entered)
    assert task.cancelled()


async def test_a_lost_cancellation_ends_a_loop_at_its_pause() -> None:
    entered = asyncio.Event()

    async def loops() -> None:
        while True:
            await _drops_one_cancellation(entered)
            await pause(0.0, asyncio.Event())

    task = asyncio.create_task(loops())
    await _cancelled_while(task, entered)
    assert task.cancelled()


async def test_a_task_that_lost_a_cancellation_and_waits_for_ever_is_asked_again() -> None:
    entered = asyncio.Event()

    async def waits() -> None:
        await _drops_one_cancellation(entered)
        await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await entered.wait()
    async with asyncio.timeout(30):
        await end([task])
    assert task.cancelled()


async def test_nothing_is_raised_without_a_cancellation() -> None:
    honour_cancellation()
    await pause(0.0, asyncio.Event())


async def test_what_takes_too_long_is_ended_even_if_it_answers_a_cancellation_by_waiting() -> None:
    ended = asyncio.Event()

    async def waits() -> None:
        try:
            await _drops_one_cancellation(asyncio.Event())
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(30):
        with pytest.raises(TimeoutError, match=r"no answer in 0\.01 s"):
            await within(0.01, waits())
    assert ended.is_set()


async def test_what_answers_in_time_is_returned() -> None:
    assert await within(30, asyncio.sleep(0, "answer")) == "answer"
