"""Clients of a gateway that fold what they are told, come back whenever they are cut, and note every step back.

They speak Socket.IO by hand over bare WebSockets, so that one process runs thousands of them. They do what
docs/operations.md asks of a client, no more: of two snapshots of one epoch the newer one stays.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from tests.rig.eventually import eventually_sync

Room = tuple[str, str]
"""Counter and scope."""

Shown = dict[Room, dict[str, int]]

_AGAIN_SECONDS = 0.2
"""The mean pause before connecting or asking again."""


@dataclass
class View:
    """What one client shows of one room."""

    epoch: str
    version: str
    state: str
    values: dict[str, int]
    changed_at: float
    """When it last changed, by time.monotonic()."""


class Watcher:
    """One client. It goes round the `urls`, one further at each connection."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str], rooms: Sequence[Room], number: int) -> None:
        self._session = session
        self._urls = urls
        self._rooms = rooms
        self.number = number
        self.told: dict[Room, tuple[str, str]] = {}
        """Epoch and version that this connection was last told."""
        self.views: dict[Room, View] = {}
        self.violations: list[str] = []
        self.connections = 0
        self.snapshots = 0
        self.changes = 0

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            url = self._urls[(self.number + self.connections) % len(self._urls)]
            address = f"{url.rstrip('/')}/socket.io/?EIO=4&transport=websocket"
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(30):
                    socket = await self._session.ws_connect(address, max_msg_size=0)
                async with socket:
                    await self._watch(socket)
            await asyncio.sleep(_AGAIN_SECONDS * random.uniform(0.5, 1.5))

    async def _watch(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.told.clear()
        async with asyncio.TaskGroup() as again:
            await self._read(socket, again)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, again: asyncio.TaskGroup) -> None:
        async for message in socket:
            text = message.data
            if not isinstance(text, str):
                return
            if text.startswith("0"):
                await socket.send_str("40")
            elif text == "2":
                await socket.send_str("3")
            elif text.startswith("40"):
                self.connections += 1
                for number in range(len(self._rooms)):
                    await self._ask(socket, number)
            elif text.startswith("43"):
                asked, bracket, rest = text[2:].partition("[")
                (answer,) = json.loads(bracket + rest)
                if answer.get("error") == "unavailable":
                    again.create_task(self._ask_again(socket, int(asked)))
                else:
                    self._answered(int(asked), answer)
            elif text.startswith("42"):
                event, body = json.loads(text[2:])
                self._event(event, body)
            else:
                self.violations.append(f"client {self.number}: sent {text[:80]!r}")
                return

    async def _ask(self, socket: aiohttp.ClientWebSocketResponse, number: int) -> None:
        counter, scope = self._rooms[number]
        request = json.dumps(["subscribe", {"counter": counter, "scope": scope}])
        await socket.send_str(f"42{number}{request}")

    async def _ask_again(self, socket: aiohttp.ClientWebSocketResponse, number: int) -> None:
        await asyncio.sleep(_AGAIN_SECONDS * random.uniform(0.5, 1.5))
        with suppress(ConnectionError):
            await self._ask(socket, number)

    def _answered(self, number: int, answer: dict[str, Any]) -> None:
        if "error" in answer:
            self.violations.append(f"client {self.number}: {self._rooms[number]} refused: {answer}")
        else:
            self._event("snapshot", answer)

    def _event(self, event: str, body: dict[str, Any]) -> None:
        room = (body["counter"], body["scope"])
        epoch, last = self.told.get(room, ("", ""))
        version = body["version"]
        if event == "tally":
            if room not in self.told:
                self.violations.append(f"client {self.number}: {room}: a change before any snapshot")
                return
            body["epoch"] = epoch
        if body["epoch"] == epoch and version < last:
            self.violations.append(f"client {self.number}: {room}: {event} {version} after {last} in epoch {epoch}")
        self.told[room] = (body["epoch"], version)
        if event == "tally":
            self._change(self.views[room], body)
        elif body.get("removed"):
            self.violations.append(f"client {self.number}: {room}: told that the counter is gone")
        else:
            self._replace(room, body)

    def _replace(self, room: Room, body: dict[str, Any]) -> None:
        self.snapshots += 1
        view = self.views.get(room)
        # Another gateway, or a Redis that lost its last writes and is about to get them again.
        if view is not None and view.epoch == body["epoch"] and body["version"] < view.version:
            return
        self.views[room] = View(body["epoch"], body["version"], body["state"], body["values"], time.monotonic())

    def _change(self, view: View, body: dict[str, Any]) -> None:
        self.changes += 1
        if view.epoch != body["epoch"] or body["version"] < view.version:
            return
        view.version = body["version"]
        view.values = {b: v for b, v in {**view.values, **body["changes"]}.items() if v}
        view.changed_at = time.monotonic()


@dataclass
class Watchers:
    """`count` clients that each watch all `rooms`, on an event loop of their own. A context manager."""

    urls: Sequence[str]
    rooms: Sequence[Room]
    count: int = 1
    clients: list[Watcher] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()
        if self._failure is not None:
            raise self._failure

    @property
    def violations(self) -> list[str]:
        """Every step back within one epoch, every refusal and every message that has no place in the protocol."""
        return [violation for client in self.clients for violation in client.violations]

    def shown(self) -> list[Shown]:
        """Return what each client shows."""
        return [{room: view.values for room, view in client.views.items()} for client in tuple(self.clients)]

    def wait_connected(self, times: int = 1, deadline: float = 60.0) -> None:
        """Wait until every client has been let in so many times and was then told of every room."""

        def all_in() -> bool:
            return len(self.clients) == self.count and all(
                client.connections >= times and len(client.told) == len(self.rooms) for client in self.clients
            )

        eventually_sync(all_in, f"{self.count} clients let in {times} times", deadline=deadline)

    def wait_equal(self, expected: Mapping[Room, Mapping[str, int]], deadline: float = 60.0) -> None:
        """Wait until every client shows exactly this, all of it live; then fail on any violation so far."""

        def differing() -> list[str]:
            found = []
            for client in self.clients:
                for room in self.rooms:
                    view = client.views.get(room)
                    if view is None or view.state != "live" or view.values != expected.get(room, {}):
                        found.append(f"client {client.number}: {room}: {view} is not {expected.get(room, {})}")
            return found

        last: list[str] = []

        def equal() -> bool:
            last[:] = differing()
            return not last and len(self.clients) == self.count

        try:
            eventually_sync(equal, f"{self.count} clients to show what is expected", deadline=deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}; {len(last)} views differ, such as {last[:3]}") from None
        assert self.violations == []

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._watch())
        except BaseException as error:  # noqa: BLE001 - raised again where the test is
            self._failure = error

    async def _watch(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            self.clients = [Watcher(session, self.urls, self.rooms, number) for number in range(self.count)]
            tasks = [asyncio.create_task(client.run()) for client in self.clients]
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in [*tasks, stopping]:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, asyncio.CancelledError), f"a watcher ended: {result!r}"
