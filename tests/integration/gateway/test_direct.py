"""Frames that are written beside the library's writers: whole, in order, only where it has nothing to send itself."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from cdc_counter.gateway.direct import DirectWebSocket, OutgoingQueue, text_frame
from tests.integration.gateway.client import replay
from tests.integration.gateway.conftest import Connect, Open, Served, Start
from tests.integration.gateway.script import Script
from tests.rig.eventually import eventually


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give the list of packets that the library was left with."""
    packets: list[Any] = []
    put = OutgoingQueue._put

    def record(queue: OutgoingQueue, item: Any) -> None:
        packets.append(item)
        put(queue, item)

    monkeypatch.setattr(OutgoingQueue, "_put", record)
    return packets


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Give what became of each frame that a WebSocket was offered."""
    outcomes: list[bool] = []
    write = DirectWebSocket.write

    def record(websocket: DirectWebSocket, frame: bytes) -> bool:
        outcomes.append(write(websocket, frame))
        return outcomes[-1]

    monkeypatch.setattr(DirectWebSocket, "write", record)
    return outcomes


def events_in(packets: list[Any]) -> int:
    return sum(str(getattr(packet, "data", "")).startswith('2["tally"') for packet in packets)


async def test_frames_of_every_size_arrive_whole_and_beside_the_library(
    script: Script, start: Start, connect: Connect, queued: list[Any]
) -> None:
    """The length of a frame is written in 7, 16 or 64 bits. Fails, too, where the library's insides have changed."""
    clients = [await connect((await start()).url) for _ in range(3)]
    snapshots = [await client.subscribe("open_by_channel", "42") for client in clients]
    # One after the other: what waits for a tick is sent together.
    for number, buckets in enumerate((1, 20, 9000), 1):
        script.change("open_by_channel", "42", {f"{i} é": 10**9 + number for i in range(buckets)})
        for client in clients:
            await client.received(number)
    for client, snapshot in zip(clients, snapshots, strict=True):
        assert replay(snapshot, client.events) == script.tallies["open_by_channel", "42"]
    assert events_in(queued) == 0


async def test_polling_client_in_the_same_room_stays_on_the_librarys_path(
    script: Script, start: Start, connect: Connect, queued: list[Any]
) -> None:
    served = await start()
    polling, socket = await connect(served.url, transports=("polling",)), await connect(served.url)
    upgraded = await connect(served.url, transports=("polling", "websocket"))
    for client in (polling, socket, upgraded):
        await client.subscribe("open_by_channel", "42")
    script.change("open_by_channel", "42", {"7": 1})
    for client in (polling, socket, upgraded):
        assert [body["changes"] for _, body in await client.received(1)] == [{"7": 1}]
    assert events_in(queued) == 1
    served.stop.set()
    await polling.gone.wait()


async def test_acknowledgements_and_events_come_in_the_order_of_their_versions(
    script: Script, start: Start, open_raw: Open
) -> None:
    """A snapshot is queued and an event written at once, again and again on one connection."""
    client = await open_raw(await start(tick_ms=1))
    await client.connect()
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            script.change("open_by_channel", "42", {"7": script.sequence + 1})
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    last, events = "", 0
    for identifier in range(200):
        await client.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, identifier)
        while not (text := await client.receive()).startswith(f"43{identifier}["):
            assert _version(text) >= last
            last, events = _version(text), events + 1
        assert _version(text) >= last
        last = _version(text)
    stop.set()
    await writing
    assert events > 10


async def test_client_whose_socket_is_full_gets_no_frame_before_what_waits_for_it(
    script: Script, start: Start, open_raw: Open, queued: list[Any]
) -> None:
    client = await open_raw(await start(tick_ms=1))
    await client.connect()
    await client.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, 0)
    assert (await client.receive()).startswith("430[")

    async def is_behind() -> bool:
        script.change("open_by_channel", "42", {f"{i}": script.sequence for i in range(2000)})
        return events_in(queued) > 3

    await eventually(is_behind, "the kernel to take no more", slowing=1.0)
    client.take_quickly()
    expected = script.change("open_by_channel", "42", {"0": -1}).version
    last = ""
    while last != expected:
        _, body = await client.event()
        assert body["version"] > last
        last = body["version"]


async def test_nothing_is_written_after_a_close(script: Script, start: Start, open_raw: Open) -> None:
    """The connection is open until the client has answered, and the library's writer waits for more."""
    served = await start()
    client = await open_raw(served)
    await client.connect()
    [socket] = served.gateway._engine.server.eio.sockets.values()
    [websocket] = socket.queue.websockets
    assert websocket.write(text_frame("2"))
    closing = asyncio.create_task(websocket._sock.close())
    await asyncio.sleep(0)
    assert websocket.is_idle
    assert not websocket.write(text_frame("2"))
    assert await client.receive() == "2"
    with pytest.raises(ConnectionResetError, match="closed by the server"):
        await client.receive()
    client.close()
    await closing


async def test_compressed_connection_stays_on_the_librarys_path(
    script: Script, start: Start, http: aiohttp.ClientSession, written: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway takes the offer away. Were it accepted all the same, frames would be the library's business."""
    monkeypatch.setattr("cdc_counter.gateway.engine._uncompressed", lambda request: request)
    served = await start()
    async with http.ws_connect(f"{served.url}socket.io/?EIO=4&transport=websocket", compress=15) as websocket:
        assert websocket.compress
        await _subscribed(websocket)
        script.change("open_by_channel", "42", {"7": 1})
        assert '"changes":{"7":1}' in (await websocket.receive_str())
    assert written == [False]


async def test_second_request_of_a_session_gets_none_of_its_frames(
    script: Script, start: Start, http: aiohttp.ClientSession
) -> None:
    """A connection that carries requests may be many people's, behind a proxy: a frame would pass for an answer."""
    served = await start()
    async with http.ws_connect(f"{served.url}socket.io/?EIO=4&transport=websocket") as websocket:
        session = await _subscribed(websocket)
        reader, writer = await asyncio.open_connection(*served.address)
        for number in range(1, 4):
            writer.write(
                f"GET /socket.io/?EIO=4&transport=websocket&sid={session} HTTP/1.1\r\nHost: {served.address[0]}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n".encode()
            )
            # Both while the request is under way and when it was answered.
            script.change("open_by_channel", "42", {"7": 2 * number})
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400"), head
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert b"changes" not in await reader.readexactly(length)
            script.change("open_by_channel", "42", {"7": 2 * number + 1})
            while f'"7":{2 * number + 1}' not in await websocket.receive_str():
                pass
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 ")
        writer.close()


async def test_session_with_two_websockets_stays_on_the_librarys_path_until_one_is_left(
    script: Script, start: Start, http: aiohttp.ClientSession, written: list[bool]
) -> None:
    served = await start()
    async with http.get(f"{served.url}socket.io/?EIO=4&transport=polling") as response:
        session = json.loads((await response.text())[1:])["sid"]
    polling = f"{served.url}socket.io/?EIO=4&transport=polling&sid={session}"
    async with http.post(polling, data="40") as response:
        assert response.status == 200
    async with http.get(polling) as response:
        assert (await response.text()).startswith("40")
    url = f"{served.url}socket.io/?EIO=4&transport=websocket&sid={session}"
    first, second = await http.ws_connect(url), await http.ws_connect(url)
    for websocket in (first, second):
        await websocket.send_str("2probe")
        assert await websocket.receive_str() == "3probe"
    await first.send_str("5")
    await first.send_str('4271["subscribe",{"counter":"open_by_channel","scope":"42"}]')
    await _received(first, "4371[")
    script.change("open_by_channel", "42", {"7": 1})
    await _received(first, '"7":1')
    assert written == []
    await second.close()
    await eventually(_one_websocket(served), "the gateway to have noticed")
    script.change("open_by_channel", "42", {"7": 2})
    await _received(first, '"7":2')
    assert written == [True]
    await first.close()


async def test_session_has_two_websockets_at_the_most(start: Start, http: aiohttp.ClientSession) -> None:
    served = await start()
    async with http.get(f"{served.url}socket.io/?EIO=4&transport=polling") as response:
        session = json.loads((await response.text())[1:])["sid"]
    url = f"{served.url}socket.io/?EIO=4&transport=websocket&sid={session}"
    tried = [await http.ws_connect(url) for _ in range(4)]
    for websocket in tried[2:]:
        assert (await websocket.receive()).type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
    for websocket in tried[:2]:
        await websocket.send_str("2probe")
        assert await websocket.receive_str() == "3probe"
        await websocket.close()


async def test_frames_go_to_hundreds_of_clients_while_others_are_served(
    script: Script, start: Start, open_raw: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two portions others have their turn: here somebody subscribes, and is not sent anything older."""
    monkeypatch.setattr("cdc_counter.gateway.fanout.PORTION", 2)
    monkeypatch.setattr("cdc_counter.gateway.push.PORTION", 2)
    served = await start(tick_ms=1)
    clients = [await open_raw(served) for _ in range(20)]
    for client in clients:
        await client.connect()
        await client.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, 1)
        assert (await client.receive()).startswith("431[")
    for number in range(1, 101):
        script.change("open_by_channel", "42", {"7": number})
        for client in clients[number % 5 :: 5]:
            await client.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, 2)
    for client in clients:
        last = ""
        while last != script.version.version:
            text = await client.receive()
            if text.startswith("4"):
                assert _version(text) >= last
                last = _version(text)


async def test_others_have_their_turn_while_a_room_is_looked_at_where_nobody_has_a_place(
    script: Script, start: Start, open_raw: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_counter.gateway.fanout.PORTION", 2)
    monkeypatch.setattr("cdc_counter.gateway.push.PORTION", 2)
    served = await start(tick_ms=1)
    for _ in range(8):
        client = await open_raw(served)
        await client.connect()
        await client.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, 1)
        assert (await client.receive()).startswith("431[")
    turns, looks = 0, []

    def capacity(*_: object, **__: object) -> int:
        looks.append(turns)
        return 0

    monkeypatch.setattr(served.gateway._engine, "capacity", capacity)
    script.change("open_by_channel", "42", {"7": 1})
    while len(looks) < 8:
        await asyncio.sleep(0)
        turns += 1
    assert len(set(looks[:8])) == 4


def _version(text: str) -> str:
    return text.split('"version":"')[1][:16]


async def _subscribed(websocket: aiohttp.ClientWebSocketResponse) -> str:
    """Enter and subscribe; return the session's id."""
    session: str = json.loads((await websocket.receive_str())[1:])["sid"]
    await websocket.send_str("40")
    await _received(websocket, "40")
    await websocket.send_str('420["subscribe",{"counter":"open_by_channel","scope":"42"}]')
    await _received(websocket, "430[")
    return session


async def _received(websocket: aiohttp.ClientWebSocketResponse, part: str) -> None:
    async with asyncio.timeout(30):
        while part not in await websocket.receive_str():
            pass


def _one_websocket(served: Served) -> Callable[[], Awaitable[bool]]:
    async def left() -> bool:
        [socket] = served.gateway._engine.server.eio.sockets.values()
        return len(socket.queue.websockets) == 1

    return left
