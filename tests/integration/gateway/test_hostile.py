"""What strangers send that no client would: none of it lasts, fills memory, harms others or ends up in a log."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tests.integration.gateway.conftest import Connect, Open, Served, Start
from tests.integration.gateway.script import Script
from tests.rig.eventually import eventually

LARGE = {f"{'tag ' * 10}{number}": number + 1 for number in range(10_000)}
"""Half a megabyte as JSON."""


def most_waiting(served: Served) -> int:
    """Return the most bytes that wait for any one connection."""
    return max((socket.queue.waiting_bytes for socket in served.gateway._engine.server.eio.sockets.values()), default=0)


def refused(served: Served, reason: str) -> bool:
    return f'clients_refused_total{{reason="{reason}"}}' in served.metrics.exposition().decode()


@pytest.mark.parametrize("pongs", [False, True], ids=["silent", "answers pings"])
async def test_many_large_rooms_fill_no_queue_of_a_client_that_never_reads(
    pongs: bool, script: Script, start: Start, open_raw: Open
) -> None:
    for scope in range(60):
        script.change("open_by_channel", str(scope), LARGE)
    served = await start(behind_seconds=1)
    hostile = await open_raw(served)
    await hostile.connect()
    # All of them are asked for before the first is answered.
    script.may_read.clear()
    for scope in range(60):
        await hostile.emit("subscribe", {"counter": "open_by_channel", "scope": str(scope)}, scope)
    await eventually(_reads(script, 16), "the readings to be under way")
    script.may_read.set()
    most = 0
    while served.gateway._engine.server.eio.sockets:
        most = max(most, most_waiting(served))
        if pongs:
            with suppress(ConnectionError):
                await hostile.send("3")
        await asyncio.sleep(0)
    # A megabyte, and the one snapshot that went beyond it.
    assert 500_000 < most < 2_500_000
    assert refused(served, "does not read")


async def test_connection_of_a_client_that_neither_reads_nor_answers_ends_soon_after_its_session(
    script: Script, start: Start, open_raw: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_counter.gateway.engine.LINGER_SECONDS", 0.5)
    script.change("open_by_channel", "42", LARGE)
    served = await start()
    server = served.gateway._engine.server.eio
    server.ping_interval = server.ping_timeout = 0.3
    silent = await open_raw(served)
    await silent.connect()
    [socket] = server.sockets.values()
    [websocket] = socket.queue.websockets
    for identifier in range(20):
        await silent.emit("subscribe", {"counter": "open_by_channel", "scope": "42"}, identifier)
    await eventually(_holds(lambda: not server.sockets), "the session to end, unanswered")
    await eventually(_holds(websocket._transport.is_closing), "the connection to end")


async def test_slow_client_gets_all_its_large_rooms(script: Script, start: Start, open_raw: Open) -> None:
    for scope in range(20):
        script.change("open_by_channel", str(scope), LARGE)
    served = await start()
    slow = await open_raw(served)
    await slow.connect()
    for scope in range(20):
        await slow.emit("subscribe", {"counter": "open_by_channel", "scope": str(scope)}, scope)
    answered: set[str] = set()
    async with asyncio.timeout(60):
        while len(answered) < 20:
            text = await slow.receive()
            if text.startswith("43"):
                number, _, body = text[2:].partition("[")
                answered.add(number)
                assert json.loads(body[:-1])["values"] == LARGE


async def test_polling_client_that_never_polls_again_is_bounded(
    script: Script, start: Start, http: aiohttp.ClientSession
) -> None:
    for scope in range(20):
        script.change("open_by_channel", str(scope), LARGE)
    served = await start(behind_seconds=1, tick_ms=1)
    url = await _polling_session(served, http)
    for scope in range(20):
        event = json.dumps(["subscribe", {"counter": "open_by_channel", "scope": str(scope)}])
        async with http.post(url, data=f"42{scope}{event}") as response:
            assert response.status == 200
    most = 0

    async def cut() -> bool:
        nonlocal most
        script.change("open_by_channel", "0", {"x": script.sequence})
        most = max(most, most_waiting(served))
        return not served.gateway._engine.server.eio.sockets

    await eventually(cut, "the session to be cut", deadline=60)
    assert 500_000 < most < 2_500_000


async def test_polling_client_that_sends_too_much_at_once_is_answered(
    start: Start, http: aiohttp.ClientSession
) -> None:
    served = await start(max_message_bytes=2048)
    url = await _polling_session(served, http)
    async with asyncio.timeout(30), http.post(url, data=b"4" * 4000) as response:
        assert response.status == 413


@pytest.mark.parametrize("body", [b"\xff\xfe", b"", b"x", b"b!!", b"0", b"5", b"6", b"7", b"d=40", b"\x1e" * 2000])
async def test_polling_nonsense_is_answered_and_leaves_others_alone(
    body: bytes, start: Start, connect: Connect, http: aiohttp.ClientSession
) -> None:
    served = await start()
    other = await connect(served.url)
    url = await _polling_session(served, http)
    async with asyncio.timeout(30), http.post(url, data=body) as response:
        assert response.status in {200, 400}
    assert "error" not in await other.subscribe("total")


async def test_whoever_comes_back_may_ask_for_all_it_had_at_once(start: Start, open_raw: Open) -> None:
    served = await start(messages_per_second=1, max_subscriptions=100)
    client = await open_raw(served)
    await client.connect()
    for scope in range(100):
        await client.emit("subscribe", {"counter": "open_by_channel", "scope": str(scope)}, scope)
    answers = 0
    async with asyncio.timeout(30):
        while answers < 100:
            answers += (await client.receive()).startswith("43")


async def test_subscribing_and_leaving_in_a_loop_ends_as_a_flood_and_leaves_nothing(
    start: Start, open_raw: Open, connect: Connect
) -> None:
    served = await start(max_subscriptions=10, messages_per_second=10)
    other, looping = await connect(served.url), await open_raw(served)
    await looping.connect()

    async def cut() -> bool:
        try:
            for event in ("subscribe", "unsubscribe"):
                await looping.emit(event, {"counter": "open_by_channel", "scope": "loop"}, 1)
        except ConnectionError:
            return True
        return len(served.gateway._engine.server.eio.sockets) == 1

    await eventually(cut, "the connection to be cut", deadline=60, slowing=1.0)
    assert refused(served, "flood")
    assert "error" not in await other.subscribe("total")

    async def only_the_others() -> list[object]:
        return list(served.gateway._push._fanout._rooms)

    await eventually(only_the_others, "one room to be left", until=lambda rooms: len(rooms) == 1)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /?secret " + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization\xff: secret\r\n\r\n",
        b"POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"GET /\xff\xfe?token=secret HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"SECRET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
        b"GET /socket.io/?EIO=4&transport=polling&sid=a&sid=secret HTTP/1.1\r\nHost: [::1\r\nOrigin: http://[::1\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_what_is_no_http_ends_up_in_no_log(sent: bytes, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    served = await start()
    reader, writer = await asyncio.open_connection(*served.address)
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(30):
        await reader.read()
    writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info] == []
    assert "secret" not in caplog.text.lower()


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff" * 20,
        b"\x81\x05hello",  # not masked
        b"\x81\x85\0\0\0\0hello",  # no packet
        b"\x02\x85\0\0\0\0hello",  # the beginning of a message
        b"\x88\x81\0\0\0\0x",
        b"\x81\x82\0\0\0\0\xff\xfe",  # no UTF-8
        b"\xc1\x82\0\0\0\x0042",  # compressed
        b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",  # 16 exabytes
        b"\x81\xfe\xff",  # half a head
    ],
)
async def test_broken_frames_end_up_in_no_log_and_leave_nothing(
    frame: bytes, start: Start, open_raw: Open, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    served = await start()
    other, client = await connect(served.url), await open_raw(served)
    await client.connect()
    await asyncio.get_running_loop().sock_sendall(client._socket, frame)
    client.close()

    async def alone() -> bool:
        return len(served.gateway._engine.server.eio.sockets) == 1

    await eventually(alone, "the connection to be gone", deadline=30)
    assert "error" not in await other.subscribe("total")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info] == []


async def test_connecting_after_a_close_of_its_own_leaves_nothing(start: Start, http: aiohttp.ClientSession) -> None:
    served = await start()
    server = served.gateway._engine.server

    async def none_left() -> bool:
        return not server.eio.sockets

    websocket = await http.ws_connect(f"{served.url}socket.io/?EIO=4&transport=websocket")
    await websocket.receive_str()
    for packet in ("1", *["40"] * 20):
        await websocket.send_str(packet)
    await websocket.close()
    await eventually(none_left, "the session is over")
    assert not server.manager.rooms.get("/", {})
    assert not server.manager.pending_connect


async def test_empty_session_is_counted_as_the_new_one_that_it_begins(
    start: Start, http: aiohttp.ClientSession
) -> None:
    served = await start(max_clients=1)
    url = f"{served.url}socket.io/?EIO=4&transport=websocket"
    websocket = await http.ws_connect(url)
    await websocket.receive_str()
    for odd in ("&sid=", "&sid"):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await http.ws_connect(url + odd)
    await websocket.close()


@pytest.mark.parametrize("watched", [True, False], ids=["others watch it", "nobody else does"])
async def test_nothing_goes_on_for_a_client_that_left_while_its_snapshot_was_read(
    watched: bool, script: Script, start: Start, connect: Connect, open_raw: Open
) -> None:
    """It would go on for ever, and nothing else with it."""
    served = await start()
    hostile = await open_raw(served)
    await hostile.connect()
    script.may_read.clear()
    await hostile.emit("subscribe", {"counter": "total"}, 1)
    await eventually(_reads(script, 1), "the reading is under way")
    if watched:
        other = await connect(served.url)
        asking = asyncio.create_task(other.subscribe("total"))
        await eventually(_subscriptions(served, 2), "another one wants to see it, too")
    hostile.close()
    await eventually(_subscriptions(served, int(watched)), "the client is gone")
    script.may_read.set()
    if watched:
        await asking
    await eventually(_nobody_waits, "nobody waits for a place any more")


async def _polling_session(served: Served, http: aiohttp.ClientSession) -> str:
    url = f"{served.url}socket.io/?EIO=4&transport=polling"
    async with http.get(url) as response:
        session = json.loads((await response.text())[1:])["sid"]
    async with http.post(f"{url}&sid={session}", data="40") as response:
        assert response.status == 200
    async with http.get(f"{url}&sid={session}") as response:
        assert (await response.text()).startswith("40")
    return f"{url}&sid={session}"


def _reads(script: Script, count: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return script.reads >= count

    return enough


def _holds(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return condition()

    return holds


async def _nobody_waits() -> bool:
    """Say whether no task is inside the wait of a subscribe."""
    for task in asyncio.all_tasks():
        awaited: Any = task.get_coro()
        while awaited is not None:
            if getattr(awaited, "__qualname__", "") == "Push._outcome":
                return False
            awaited = getattr(awaited, "cr_await", None)
    return True


def _subscriptions(served: Served, count: int) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return f"cdc_counter_subscriptions {float(count)}" in served.metrics.exposition().decode()

    return reached
