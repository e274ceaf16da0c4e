"""One frame for every WebSocket of a room, written without waking the task that the library has for each.

The library queues a packet per client, wakes that client's writer, and encodes again for each. Where the writer waits
for something to send and the kernel has taken all it was given, the bytes that it would write are written here at once;
any other client (one that polls, is behind, is being upgraded or closed) stays on the library's own path. So what waits
for a client is bounded there as before, and goes first. The frames are those of RFC 6455, section 5.2: text, whole,
unmasked and uncompressed, as aiohttp's own.

Frames go only into a connection whose handshake has succeeded, which is then nobody else's. A client may shake hands
twice before the library takes note; while a session has two WebSockets, nothing is written to either here.

This rests on how the library's writer works, so its versions are limited in pyproject.toml.
"""

import asyncio
import struct
from contextvars import ContextVar
from typing import Any, Final

from engineio.async_drivers import aiohttp as library

_TEXT: Final = 0x81
_SHORT: Final = 125
_MEDIUM: Final = 0xFFFF

_MOST_WEBSOCKETS: Final = 2
"""Of one session: a second may be tried while the first is half open. The library lets it try any number, for ever."""


class OutgoingQueue(asyncio.Queue[Any]):
    """What waits for one client, how much text that is, and the WebSockets it can go to.

    `_put` and `_get` are asyncio.Queue's documented places to override.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting_bytes = 0
        self.emptied = asyncio.Event()
        self.emptied.set()
        self.websockets: list[DirectWebSocket] = []

    async def get(self) -> Any:
        """Wait for what is to be sent next: only a writer that has sent all it was given does so."""
        websocket = _served.get()
        if websocket is None:
            return await super().get()
        websocket.is_idle = True
        try:
            return await super().get()
        finally:
            websocket.is_idle = False

    def _put(self, item: Any) -> None:
        self.waiting_bytes += _size(item)
        self.emptied.clear()
        super()._put(item)

    def _get(self) -> Any:
        item = super()._get()
        self.waiting_bytes -= _size(item)
        if self.empty():
            self.emptied.set()
        return item

    async def join(self) -> None:
        """Wait for nobody: the library would wait for a client that never reads, for as long as its request lives."""


class DirectWebSocket(library.WebSocket):  # type: ignore[misc]  # the library has no types
    """The library's WebSocket, which tells its client's queue that it is there once the handshake has succeeded."""

    def __init__(self, handler: Any, server: Any) -> None:
        super().__init__(self._serve, server)
        self._library_handler = handler
        # A bound method of the client's socket.
        self._session = handler.__self__
        self._queue: OutgoingQueue = self._session.queue
        self._transport: asyncio.Transport | None = None
        self._compresses = False
        self.is_idle = False
        """Whether the library's writer waits for more."""

    def write(self, frame: bytes) -> bool:
        """Write a frame if nothing has to go before it; False where it was not written."""
        transport = self._transport
        if not self.is_idle or transport is None or self._compresses or self._sock.closed:
            return False
        if transport.is_closing() or transport.get_write_buffer_size() > 0:
            return False
        transport.write(frame)
        return True

    @property
    def outlives_its_session(self) -> bool:
        """Whether the library has ended the session; it waits for a client that does not read, for ever."""
        return bool(self._session.closed)

    def abort(self) -> None:
        """End the connection; the library's reader notices."""
        if self._transport is not None:
            self._transport.abort()

    async def _serve(self, _websocket: "DirectWebSocket") -> None:
        self._transport = self.environ["aiohttp.request"].transport
        if len(self._queue.websockets) >= _MOST_WEBSOCKETS:
            self.abort()
            return
        self._compresses = bool(self._sock.compress)
        self._queue.websockets.append(self)
        self.server.websockets.add(self)
        # The writer is a task begun in here, and so knows it, too.
        token = _served.set(self)
        try:
            await self._library_handler(self)
        finally:
            _served.reset(token)
            self._queue.websockets.remove(self)
            self.server.websockets.remove(self)


_served: Final[ContextVar[DirectWebSocket | None]] = ContextVar("served", default=None)
"""The WebSocket for which the current task works, if any."""


def written_at_once(socket: Any, frame: bytes) -> bool:
    """Write a frame to a client of the library, if that is its turn; False where the library has to do it."""
    queue: OutgoingQueue = socket.queue
    # Whoever is closed was closing before.
    if len(queue.websockets) != 1 or not queue.empty() or not socket.upgraded or socket.closing:
        return False
    return queue.websockets[0].write(frame)


def text_frame(text: str) -> bytes:
    """Return a text message as a server sends it."""
    data = text.encode()
    size = len(data)
    if size <= _SHORT:
        return struct.pack("!BB", _TEXT, size) + data
    if size <= _MEDIUM:
        return struct.pack("!BBH", _TEXT, 126, size) + data
    return struct.pack("!BBQ", _TEXT, 127, size) + data


def _size(item: Any) -> int:
    data = getattr(item, "data", None)
    return len(data) if isinstance(data, str) else 0
