"""What one client may cost: reading slowly, never connecting, flooding, sending nonsense, coming in crowds."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from tests.integration.gateway.client import Client, replay
from tests.integration.gateway.conftest import Connect, Open, Served, Start
from tests.integration.gateway.script import Script
from tests.rig.eventually import eventually

BULKY = {f"{'tag ' * 50}{number}": number + 1 for number in range(200)}
"""About 40 kB as JSON: a few of them fill every buffer between server and client."""


def waiting(served: Served) -> int:
    """Return the most packets that wait for any one connection."""
    return max((socket.queue.qsize() for socket in served.gateway._engine.server.eio.sockets.values()), default=0)


async def connections(served: Served, count: int) -> None:
    async def open_ones() -> int:
        return len(served.gateway._engine.server.eio.sockets)

    await eventually(open_ones, f"{count} connections", until=lambda number: number == count, deadline=10)


async def test_slow_reader_is_bounded_and_gets_a_snapshot_when_it_has_caught_up(
    script: Script, start: Start, open_raw: Open, connect: Connect
) -> None:
    served = await start(tick_ms=1, max_queue=16)
    slow, quick = await open_raw(served), await connect(served.url)
    await slow.connect()
    await slow.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, 1)
    assert (await slow.receive()).startswith("431")
    snapshot = await quick.subscribe("open_by_channel", "42")
    most = 0
    for number in range(250):
        script.change("open_by_channel", "42", {bucket: value + number for bucket, value in BULKY.items()})
        await _shown(quick, script)
        most = max(most, waiting(served))
    assert 0 < most <= 17
    events: list[tuple[str, dict[str, Any]]] = []
    while not events or events[-1][1]["version"] != script.version.version:
        async with asyncio.timeout(60):
            events.append(await slow.event())
    assert len(events) < 200
    assert events[-1][0] == "reset"
    assert replay(snapshot, events) == script.tallies["open_by_channel", "42"]
    # Back in step, it is sent changes again.
    script.change("open_by_channel", "42", {"x": 1})
    assert (await slow.event())[1]["changes"] == {"x": 1}


async def _shown(client: Client, script: Script) -> None:
    async def latest() -> bool:
        return bool(client.events) and client.events[-1][1]["version"] == script.version.version

    await eventually(latest, "the quick client to be up to date", deadline=10)


async def test_client_that_takes_nothing_for_too_long_is_cut(script: Script, start: Start, open_raw: Open) -> None:
    served = await start(tick_ms=1, max_queue=16, behind_seconds=0.5)
    stuck = await open_raw(served)
    await stuck.connect()
    await stuck.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, 1)
    await stuck.receive()

    async def cut() -> bool:
        script.change("open_by_channel", "42", {b: v + script.sequence for b, v in BULKY.items()})
        return not served.gateway._engine.server.eio.sockets

    await eventually(cut, "the connection to be cut", slowing=1.0)
    assert 'clients_refused_total{reason="does not read"} 1.0' in served.metrics.exposition().decode()


async def test_client_that_asks_without_reading_is_cut(script: Script, start: Start, open_raw: Open) -> None:
    script.change("open_by_channel", "42", {bucket * 4: value for bucket, value in BULKY.items()})
    served = await start(max_queue=8, max_subscriptions=10, messages_per_second=100_000)
    greedy = await open_raw(served)
    await greedy.connect()

    async def cut() -> bool:
        try:
            await greedy.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, 1)
        except ConnectionError:
            return True
        return not served.gateway._engine.server.eio.sockets

    await eventually(cut, "the connection to be cut", slowing=1.0)


async def test_connection_that_never_enters_is_cut(start: Start, open_raw: Open, connect: Connect) -> None:
    served = await start(handshake_seconds=0.3)
    client = await connect(served.url)
    idle = await open_raw(served)
    await connections(served, 2)
    async with asyncio.timeout(60):
        await idle.ended()
    await connections(served, 1)
    assert "error" not in await client.subscribe("total")


async def test_polling_session_that_never_enters_is_forgotten(start: Start, http: aiohttp.ClientSession) -> None:
    served = await start(handshake_seconds=0.3)
    for _ in range(20):
        async with http.get(f"{served.url}socket.io/?EIO=4&transport=polling") as response:
            assert response.status == 200
    await connections(served, 0)


async def test_flood_of_unknown_events_ends_the_connection(start: Start, open_raw: Open) -> None:
    served = await start(messages_per_second=10, max_subscriptions=10)
    client = await open_raw(served)
    await client.connect()

    async def cut() -> bool:
        try:
            await client.send('42["nonsense"]')
        except ConnectionError:
            return True
        return False

    await eventually(cut, "the connection to be cut", slowing=1.0)
    assert 'clients_refused_total{reason="flood"} 1.0' in served.metrics.exposition().decode()


@pytest.mark.parametrize(
    "text",
    [
        "4",
        "4x",
        "42",
        "42[]",
        "42{}",
        "42null",
        "42[[]]x",
        "42" + "[" * 10_000,
        '42["subscribe"',
        "451-[1]",
        "461-[1]",
        "43[1]",
        "44",
        "421111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111[1]",
        "bAAAA",
    ],
)
async def test_nonsense_ends_the_connection_and_nobody_elses(
    text: str, start: Start, open_raw: Open, connect: Connect
) -> None:
    served = await start()
    other = await connect(served.url)
    client = await open_raw(served)
    await client.connect()
    await client.send(text)
    async with asyncio.timeout(60):
        await client.ended()
    assert "error" not in await other.subscribe("total")


@pytest.mark.parametrize(
    "text", ['42[["subscribe"]]', "42[1]", "42[null,{}]", '42[{"a":1}]', "40", "40/admin,", "41/x,"]
)
async def test_odd_but_well_formed_messages_are_survived(text: str, start: Start, open_raw: Open) -> None:
    served = await start()
    client = await open_raw(served)
    await client.connect()
    await client.send(text)
    await client.emit("subscribe", {"counter": "total"}, 7)
    async with asyncio.timeout(60):
        while not (answer := await client.receive()).startswith("437"):
            pass
    assert '"version"' in answer


async def test_message_beyond_the_limit_ends_the_connection(start: Start, open_raw: Open) -> None:
    served = await start(max_message_bytes=2048)
    client = await open_raw(served)
    await client.connect()
    await client.send("42" + "x" * 4000)
    async with asyncio.timeout(60):
        await client.ended()


async def test_crowd_beyond_the_limit_is_turned_away(start: Start, open_raw: Open, connect: Connect) -> None:
    served = await start(max_clients=2)
    first = await connect(served.url)
    await (await open_raw(served)).connect()
    with pytest.raises(AssertionError, match="503"):
        await open_raw(served)
    await first.close()
    await connections(served, 1)
    await (await open_raw(served)).connect()


async def test_disconnected_clients_leave_nothing_behind(start: Start, connect: Connect, script: Script) -> None:
    served = await start()
    clients = [await connect(served.url) for _ in range(5)]
    for client in clients:
        await client.subscribe("open_by_channel", "42")
        await client.close()
    await connections(served, 0)
    push = served.gateway._push
    assert (push._clients, push._fanout._rooms, push._fanout._clients, push._fanout._audience) == ({}, {}, {}, {})
    assert "cdc_counter_clients 0.0" in served.metrics.exposition().decode()


async def test_stopping_lets_clients_see_a_lost_transport_and_returns(
    start: Start, connect: Connect, open_raw: Open, script: Script
) -> None:
    served = await start()
    client, silent = await connect(served.url), await open_raw(served)
    await client.subscribe("total")
    await silent.connect()
    script.change("total", "-", {"-": 1})
    served.stop.set()
    async with asyncio.timeout(40):
        await served.ended
        await client.gone.wait()
    assert [body["changes"] for _, body in client.events] in ([], [{"-": 1}])


async def test_gateway_that_stood_still_cuts_nobody_for_it(start: Start, open_raw: Open) -> None:
    """What a client sent in time may be read late, when two thousand others came at once."""
    served = await start(handshake_seconds=2)
    slow = await open_raw(served)

    async def noticed() -> bool:
        return bool(served.gateway._engine._outside)

    await eventually(noticed, "the sweep to have seen it")
    await slow.send("40")
    time.sleep(3)  # noqa: ASYNC251 - the gateway's event loop is this one, and stands still
    assert (await slow.receive()).startswith("40")
    assert "never connected" not in served.metrics.exposition().decode()
