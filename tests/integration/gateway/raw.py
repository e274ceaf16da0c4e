"""Bare sockets: clients that don't read, don't connect or don't stop, which no Socket.IO client would do."""

import asyncio
import base64
import json
import os
import socket
import struct
from typing import Any


class RawClient:
    """A WebSocket with the smallest receive buffer, speaking Engine.IO by hand."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unread = b""

    @classmethod
    async def open(cls, address: tuple[str, int], *, receive_buffer: int = 4096) -> "RawClient":
        """Shake hands up to the Engine.IO OPEN packet."""
        connection = socket.socket()
        # Before connecting: the window is agreed on in the handshake.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, address)
        client = cls(connection)
        key = base64.b64encode(os.urandom(16)).decode()
        await loop.sock_sendall(
            connection,
            (
                f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {key}\r\n\r\n"
            ).encode(),
        )
        while b"\r\n\r\n" not in client._unread:
            client._unread += await loop.sock_recv(connection, 4096)
        head, _, client._unread = client._unread.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        assert (await client.receive()).startswith("0")
        return client

    async def connect(self) -> None:
        """Enter the default namespace."""
        await self.send("40")
        assert (await self.receive()).startswith("40")

    async def send(self, text: str) -> None:
        data = text.encode()
        length = struct.pack("!BBH", 0x81, 0xFE, len(data)) if len(data) > 125 else bytes([0x81, 0x80 | len(data)])
        await asyncio.get_running_loop().sock_sendall(self._socket, length + b"\0\0\0\0" + data)

    async def emit(self, event: str, body: dict[str, Any], identifier: int | None = None) -> None:
        await self.send(f"42{'' if identifier is None else identifier}{json.dumps([event, body])}")

    def take_quickly(self) -> None:
        """Enlarge the receive buffer: through the smallest, what the kernel holds comes at the pace of its timers."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

    async def receive(self) -> str:
        """Return the next text message; raises ConnectionError once the server has closed."""
        head = await self._take(2)
        length = head[1] & 0x7F
        if length == 126:
            length = struct.unpack("!H", await self._take(2))[0]
        elif length == 127:
            length = struct.unpack("!Q", await self._take(8))[0]
        data = await self._take(length)
        if head[0] & 0x0F == 8:
            raise ConnectionResetError("closed by the server")
        return data.decode()

    async def event(self) -> tuple[str, dict[str, Any]]:
        """Return the next event, answering pings and passing by acknowledgements."""
        while True:
            text = await self.receive()
            if text == "2":
                await self.send("3")
            elif text.startswith("42"):
                event, body = json.loads(text[2:])
                return event, body

    async def ended(self) -> None:
        """Return once the server has ended the connection, without sending anything."""
        try:
            while await asyncio.get_running_loop().sock_recv(self._socket, 65536):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        self._socket.close()

    async def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
            if not data:
                raise ConnectionResetError("ended by the server")
            self._unread += data
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken
