"""One consumer takes over from another: what it asked before the other went on is not taken for a loss."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdc_counter import wiring
from cdc_counter.config import load_config
from cdc_counter.core.lifecycle import Stored
from cdc_counter.core.role import Role
from cdc_counter.tallies.store import TallyStore
from tests.fault.deployment import Deployment
from tests.rig.eventually import eventually
from tests.rig.tallies import wait_applied


async def test_a_watermark_that_moved_between_two_questions_is_no_gap(
    deployment18: Deployment, monkeypatch: Any
) -> None:
    deployment18.init()
    epoch = deployment18.epoch()
    honest = TallyStore.load
    asked = 0

    async def load(store: TallyStore) -> Stored | None:
        """Answer, and let another consumer come and go before the slot is looked at."""
        nonlocal asked
        asked += 1
        answer = await honest(store)
        if asked == 1:
            await asyncio.to_thread(another_consumer_goes_on, deployment18)
        return answer

    monkeypatch.setattr(TallyStore, "load", load)
    config = replace(load_config(deployment18.config, {}), path=Path("c.toml"))
    stop = asyncio.Event()
    running = asyncio.create_task(wiring.run(config, stop, role=Role.CONSUMER))
    try:
        await eventually(lambda: _streams(deployment18, running, asked), "the second consumer streams", deadline=40)
        await asyncio.to_thread(deployment18.assert_exact)
    finally:
        stop.set()
        await running
    assert deployment18.epoch() == epoch


def another_consumer_goes_on(deployment: Deployment) -> None:
    with deployment.daemon("other").start().wait_ready() as other:
        deployment.sql("INSERT INTO orders (shop, amount) SELECT 'handed over', 1 FROM generate_series(1, 50)")
        wait_applied(deployment.dsn, deployment.redis_url)
        assert other.terminate() == 0


async def _streams(deployment: Deployment, running: "asyncio.Task[None]", asked: int) -> bool:
    assert not running.done(), running.exception()
    return asked > 1 and await asyncio.to_thread(deployment.walsender) is not None
