"""All clients come at once, or come back after the gateway was killed: each is answered, and Redis hardly notices."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import redis
import socketio

from tests.fault.deployment import Deployment, Traffic, honest_recount
from tests.rig.watchers import Room, Shown, Watchers

ROOMS: tuple[Room, ...] = (("open_by_channel", "1"), ("open_by_channel", "2"), ("orders_by_shop", "-"))


def readings(url: str) -> int:
    """Return how many tallies were read so far."""
    with redis.Redis.from_url(url, protocol=2) as client:
        return int(client.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0))


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.programme)])
def test_a_reconnect_storm_reads_each_room_a_few_times(
    count: int, database18: str, redis_url: str, tmp_path: Path
) -> None:
    with Deployment(database18, redis_url, tmp_path) as deployment:
        deployment.init()
        consumer = deployment.daemon("consumer", None, "--role", "consumer").start()
        gateway = deployment.daemon("gateway", None, "--role", "gateway").start().wait_ready()
        with Watchers([f"http://127.0.0.1:{gateway.port}"], ROOMS, count) as watchers:
            watchers.wait_connected(deadline=240)
            with Traffic(deployment.dsn) as traffic:
                gateway.kill()
                traffic.wait_for_more()
                # Nobody else reads hashes whole once the consumer stands still.
                consumer.freeze()
                before = readings(redis_url)
                gateway.start()
                watchers.wait_connected(2, deadline=240)
                after = readings(redis_url)
                consumer.thaw()
                traffic.wait_for_more()
            deployment.assert_exact(deadline=60)
            rooms: Shown = {room: {} for room in ROOMS}
            for (counter, scope, bucket), value in honest_recount(deployment.dsn).items():
                if (counter, scope) in rooms:
                    rooms[counter, scope][bucket] = value
            watchers.wait_equal(rooms, deadline=240)
            # Once as it is opened, and again where the feed was not followed yet.
            assert len(ROOMS) <= after - before <= 4 * len(ROOMS)
        assert "Traceback" not in gateway.log_text()


async def test_a_burst_of_requests_is_answered(database18: str, redis_url: str, tmp_path: Path) -> None:
    with Deployment(database18, redis_url, tmp_path) as deployment:
        deployment.init()
        daemon = deployment.daemon("daemon", None).start().wait_ready()
        counter = f"http://127.0.0.1:{daemon.port}/v1/counters/open_by_channel"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def status_of(scope: int) -> int:
                async with session.get(f"{counter}/{scope}") as answer:
                    return answer.status

            assert set(await asyncio.gather(*map(status_of, range(600)))) == {200}
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(socketio.AsyncSimpleClient()) for _ in range(200)]
            await asyncio.gather(*(client.connect(f"http://127.0.0.1:{daemon.port}") for client in clients))
            # Without a scope, which the gateway has to look up.
            asked = [client.client.call("subscribe", {"counter": "conversations"}) for client in clients]
            assert all("error" not in answer for answer in await asyncio.gather(*asked))
