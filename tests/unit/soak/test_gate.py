"""The gate between writers and rest."""

import asyncio

from cdc_counter.soak.gate import Gate


async def test_gate_shuts_only_when_nobody_is_inside() -> None:
    gate, leave, seen = Gate(), asyncio.Event(), []

    async def writer() -> None:
        async with gate.passage():
            seen.append("in")
            await leave.wait()
            seen.append("out")

    async def keeper() -> None:
        async with gate.shut():
            seen.append("shut")

    writing = asyncio.create_task(writer())
    await asyncio.sleep(0)
    keeping = asyncio.create_task(keeper())
    await asyncio.sleep(0.01)
    leave.set()
    await asyncio.gather(writing, keeping)
    assert seen == ["in", "out", "shut"]


async def test_nobody_passes_a_shut_gate_until_it_opens() -> None:
    gate, seen = Gate(), []

    async def writer() -> None:
        async with gate.passage():
            seen.append("in")

    async with gate.shut():
        writing = asyncio.create_task(writer())
        await asyncio.sleep(0.01)
        assert seen == []
    await writing
    assert seen == ["in"]


async def test_sleep_inside_ends_as_soon_as_somebody_wants_to_shut() -> None:
    gate = Gate()

    async def writer() -> None:
        async with gate.passage():
            await gate.sleep(3600)

    writing = asyncio.create_task(writer())
    await asyncio.sleep(0)
    async with asyncio.timeout(60), gate.shut():
        pass
    await writing
