"""The clients themselves: connected one handful after the other, then served from one epoll.

Python's own cost per event is what limits them: a few microseconds.
"""

import mmap
import select
import socket
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.crowd.frames import payloads, text_frame, upgrade_request
from benchmarks.crowd.plan import Plan, subscription, value_of

_TOGETHER: Final = 50
"""Clients that connect at the same time."""

_CONNECT_SECONDS: Final = 60.0
_READ: Final = 16_384
_PONG: Final = text_frame("3")
_PING: Final = b"2"
_EVENT: Final = b"42"


class Client:
    """One connection. `rest` is the beginning of a frame, `seen` the last value."""

    __slots__ = ("number", "rest", "seen", "socket")

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        self.seen = 0

    def await_upgrade(self) -> None:
        """Read the answer to the HTTP request."""
        while b"\r\n\r\n" not in self.rest:
            self._read()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"no WebSocket: {head!r}")

    def await_packets(self, start: bytes, count: int) -> None:
        """Read until so many packets have come that start like this."""
        while count:
            found, self.rest = payloads(self.rest)
            if any(packet.startswith(b"44") or b'"error"' in packet for packet in found):
                raise ConnectionError(f"refused: {found!r}")
            count -= sum(packet.startswith(start) for packet in found)
            if count:
                self._read()

    def _read(self) -> None:
        data = self.socket.recv(_READ)
        if not data:
            raise ConnectionError(f"client {self.number} was hung up on while it connected")
        self.rest += data


class Notes:
    """What was noted: client, value and time (monotonic, nanoseconds) of the last event of each read."""

    def __init__(self, progress: Path) -> None:
        with progress.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)
        self.progress = memoryview(self._map).cast("q")
        self.seen = array("q")
        self.events: list[tuple[int, int, bytes]] = []

    def clear(self) -> None:
        """Begin anew; the progress goes on."""
        self.seen = array("q")
        self.events = []


class Clients:
    """All of them. `whole` keeps every event as it came, for who does not only count."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self.notes = Notes(Path(plan.progress))
        self.whole = False

    def connect(self) -> None:
        """Connect everybody, and wait until all are in their rooms."""
        numbers = range(len(self._plan.rooms))
        for first in range(0, len(numbers), _TOGETHER):
            some = [Client(number, self._plan.port) for number in numbers[first : first + _TOGETHER]]
            for step in (self._open, self._enter, self._subscribe):
                waiting = [step(client) for client in some]
                for each in waiting:
                    next(each)
                for each in waiting:
                    next(each, None)
            for client in some:
                client.socket.setblocking(False)
                self._clients[client.socket.fileno()] = client
                self._epoll.register(client.socket, select.EPOLLIN)

    def serve(self, commands: int) -> Iterator[None]:
        """Read for ever; give way whenever there is something on the file `commands`."""
        self._epoll.register(commands, select.EPOLLIN)
        poll, clients, note = self._epoll.poll, self._clients, self._note
        while True:
            for number, _ in poll():
                if number == commands:
                    yield
                else:
                    note(clients[number])

    def _note(self, client: Client) -> None:
        data = client.socket.recv(_READ)
        now = time.monotonic_ns()
        if not data:
            raise ConnectionError(f"client {client.number} was hung up on")
        found, client.rest = payloads(client.rest + data if client.rest else data)
        events = [packet for packet in found if packet.startswith(_EVENT)]
        if len(events) < len(found) and _PING in found:
            client.socket.send(_PONG)
        if not events:
            return
        notes = self.notes
        notes.progress[1] += len(events)
        if self.whole:
            notes.events += [(client.number, now, event) for event in events]
            return
        value = value_of(events[-1])
        if value > client.seen:
            notes.progress[0] += value - client.seen
            client.seen = value
            notes.seen.extend((client.number, value, now))

    def begin(self, base: int, *, whole: bool) -> None:
        """Note anew; everybody has seen the value `base`."""
        self.whole = whole
        self.notes.clear()
        for client in self._clients.values():
            client.seen = base
        self.notes.progress[0] = 0
        self.notes.progress[1] = 0

    def _open(self, client: Client) -> Iterator[None]:
        client.socket.sendall(upgrade_request(self._plan.port, self._plan.path))
        yield
        client.await_upgrade()
        if self._plan.socketio:
            client.await_packets(b"0", 1)

    def _enter(self, client: Client) -> Iterator[None]:
        if self._plan.socketio:
            client.socket.sendall(text_frame("40"))
        yield
        if self._plan.socketio:
            client.await_packets(b"40", 1)

    def _subscribe(self, client: Client) -> Iterator[None]:
        rooms = self._plan.rooms[client.number]
        asked = (subscription(number, counter, scope) for number, (counter, scope) in enumerate(rooms))
        client.socket.sendall(b"".join(text_frame(text) for text in asked))
        yield
        client.await_packets(b"43", len(rooms))
