"""No library at all: a frame encoded once a room and written to asyncio's transports, no thought given to slow clients.

What even this does not do is the limit of Python's event loop, or of the clients that measure.
"""

import asyncio
import json
import sys
from collections import defaultdict
from typing import cast

from benchmarks.fanout.servers.waves import COUNTERS, room_of, rooms_of, text_of, waves

_UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_MASK = 4
"""Bytes of a key, zeros for these clients, before what a client sends."""


class _Connection(asyncio.Protocol):
    """A client that asks for an upgrade, then for rooms, each in a short frame."""

    def __init__(self, members: dict[str, list[asyncio.Transport]]) -> None:
        self._members = members
        self._unread = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._upgraded and b"\r\n\r\n" in self._unread:
            self._unread = self._unread.partition(b"\r\n\r\n")[2]
            self._upgraded = True
            self._transport.write(_UPGRADED)
        while self._upgraded and len(self._unread) > 1:
            start, end = 2 + _MASK, 2 + _MASK + (self._unread[1] & 0x7F)
            if len(self._unread) < end:
                break
            self._enter(self._unread[start:end].decode())
            self._unread = self._unread[end:]

    def _enter(self, packet: str) -> None:
        _, wanted = json.loads(packet[3:])
        self._members[room_of(wanted)].append(self._transport)
        self._transport.write(_frame(f"43{packet[2]}[]"))


async def main(rooms: int) -> None:
    """Serve."""
    members: dict[str, list[asyncio.Transport]] = defaultdict(list)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(members), "127.0.0.1", 0)
    async for kind, value in waves(server.sockets[0].getsockname()[1]):
        for scope in rooms_of(kind, rooms):
            frame = _frame(text_of(kind, scope, value))
            for transport in members[f"{COUNTERS[kind]}:{scope}"]:
                transport.write(frame)


def _frame(text: str) -> bytes:
    """Return a server's text frame of fewer than 65,536 bytes."""
    data = text.encode()
    head = bytes([0x81, len(data)]) if len(data) < 126 else b"\x81\x7e" + len(data).to_bytes(2)
    return head + data


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
