"""A TCP proxy that injects the faults a network has, in front of PostgreSQL or Redis.

Faults, by the words of fault tests: *hold* (bytes wait, connections stay), *cut* (reset both sides),
*refuse* (no new connections), *black hole* (bytes are read and thrown away, so that a write is lost without
an error), *delay*, *cut after n bytes*, and another upstream for the next connections. Directions: "to" the
server, "from" it. Bytes of all connections meet them, or of some that give themselves away by what they say.
"""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Direction = Literal["to", "from"]

_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on with 0 s: close sends RST, as a crashed peer's kernel does."""


@dataclass(slots=True)
class _Flow:
    """One direction's faults; they hold for all connections, those of now and those to come."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    black_hole: bool = False
    delay: float = 0.0
    cut_after: int | None = None
    transferred: int = 0


class FaultProxy:
    """Listens on a loopback port and passes bytes to `upstream`, except for the faults that are set.

    With `only`, what is done to bytes is done to those of connections that have sent this word: b"PSYNC" are replicas.
    """

    def __init__(self, upstream_port: int, upstream_host: str = "127.0.0.1", *, only: bytes = b"") -> None:
        self.upstream = (upstream_host, upstream_port)
        self._only = only
        self.port = 0
        self.connections = 0
        self._flows: dict[Direction, _Flow] = {"to": _Flow(), "from": _Flow()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._refusing = False
        self.pass_on()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.pass_on()
        self.cut()

    def pass_on(self) -> None:
        """Undo every fault."""
        self._refusing = False
        for flow in self._flows.values():
            flow.open.set()
            flow.black_hole, flow.delay, flow.cut_after = False, 0.0, None

    def hold(self, direction: Direction | None = None) -> None:
        """Keep bytes back until `release`; connections stay open."""
        for flow in self._chosen(direction):
            flow.open.clear()

    def release(self, direction: Direction | None = None) -> None:
        """Let held bytes go on."""
        for flow in self._chosen(direction):
            flow.open.set()

    def black_hole(self, direction: Direction | None = None) -> None:
        """Read bytes and throw them away. The connection is useless from here on: `cut` it before `pass_on`."""
        for flow in self._chosen(direction):
            flow.black_hole = True

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Pass each chunk on only after `seconds`."""
        for flow in self._chosen(direction):
            flow.delay = seconds

    def cut_after(self, count: int, direction: Direction) -> None:
        """Pass on exactly `count` more bytes of this direction, then end it: the sender is reset."""
        flow = self._flows[direction]
        flow.cut_after = flow.transferred + count

    def cut(self) -> None:
        """Reset every connection, towards both sides."""
        for writer in self._writers:
            _reset(writer)
        self._writers.clear()

    def refuse(self) -> None:
        """Reset new connections as soon as they arrive; those that are open go on."""
        self._refusing = True

    def switch(self, port: int, host: str = "127.0.0.1") -> None:
        """Send new connections to another server, as a failover does; those that are open go on."""
        self.upstream = (host, port)

    def transferred(self, direction: Direction) -> int:
        """Return how many bytes went through."""
        return self._flows[direction].transferred

    def _chosen(self, direction: Direction | None) -> list[_Flow]:
        return list(self._flows.values()) if direction is None else [self._flows[direction]]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio's server takes a cancelled connection for an error and prints its trace.
        with contextlib.suppress(asyncio.CancelledError):
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            _reset(writer)
            return
        self.connections += 1
        both = {writer, up_writer}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as group:
                chosen = asyncio.Event()
                group.create_task(self._pump(reader, up_writer, self._flows["to"], chosen), name="to")
                group.create_task(self._pump(up_reader, writer, self._flows["from"], chosen), name="from")
        except* OSError:
            for end in both:
                if not end.is_closing():
                    _reset(end)
        finally:
            self._writers -= both
            for end in both:
                end.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: _Flow, chosen: asyncio.Event
    ) -> None:
        while data := await reader.read(_CHUNK):
            if self._only in data:
                chosen.set()
            if not chosen.is_set():
                writer.write(data)
                await writer.drain()
                continue
            if flow.delay:
                await asyncio.sleep(flow.delay)
            await flow.open.wait()
            if flow.black_hole:
                continue
            left = None if flow.cut_after is None else flow.cut_after - flow.transferred
            writer.write(data if left is None else data[:left])
            flow.transferred += len(data) if left is None else min(left, len(data))
            await writer.drain()
            if left is not None and left <= len(data):
                flow.cut_after = None
                # The receiver gets what was let through and then an end of file; a reset could take it back.
                writer.close()
                raise ConnectionResetError
        # One side has said all it has to say; the other may go on.
        with contextlib.suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    end: socket.socket | None = writer.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
