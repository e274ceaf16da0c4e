"""Whoever waits for a moment between two steps is told, whatever becomes of the session."""

import asyncio

import pytest

from cdc_counter.core.lifecycle import Epoch
from cdc_counter.core.lsn import ZERO, Lsn
from cdc_counter.core.progress import Progress
from cdc_counter.core.recent import RecentTransactions
from cdc_counter.core.watermark import Watermark
from cdc_counter.metrics import Metrics
from cdc_counter.runtime.applier import Applier, SupersededError
from cdc_counter.runtime.lineage import Lineage
from cdc_counter.tallies.connection import connect
from cdc_counter.tallies.store import TallyStore


def applier_at(lsn: int) -> Applier:
    """Return an applier that is not asked to reach Redis here."""
    lineage = Lineage(Epoch("e", "1", 1, 1, "s"), Watermark(Lsn(lsn)), RecentTransactions(10))
    store = TallyStore(connect("redis://127.0.0.1:1/0"), "t", 1000)
    return Applier(store, lineage, Progress.starting_at(Lsn(lsn), Lsn(lsn)), {}, Metrics(), lambda: 0.0)


async def test_a_visitor_is_let_in_once_the_watermark_is_there() -> None:
    applier = applier_at(100)

    async def act() -> str:
        return "seen"

    late = asyncio.create_task(applier.between_steps(Lsn(101), act, lambda: None))
    early = asyncio.create_task(applier.between_steps(Lsn(100), act, lambda: None))
    await asyncio.sleep(0)
    await applier.let_in()
    assert await early == "seen"
    assert not late.done()
    applier.turn_away(SupersededError("over"))
    with pytest.raises(SupersededError):
        await late


async def test_a_visitor_whose_session_is_cancelled_while_he_acts_is_told() -> None:
    applier = applier_at(100)
    inside = asyncio.Event()

    async def act() -> None:
        inside.set()
        await asyncio.Event().wait()

    visiting = asyncio.create_task(applier.between_steps(ZERO, act, lambda: None))
    await asyncio.sleep(0)
    session = asyncio.create_task(applier.let_in())
    await inside.wait()
    session.cancel()
    with pytest.raises(asyncio.CancelledError):
        await session
    applier.turn_away(SupersededError("over"))
    with pytest.raises(SupersededError, match="session ended"):
        await asyncio.wait_for(visiting, 30)
