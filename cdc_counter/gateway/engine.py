"""The connections below Socket.IO: admission, limits on what comes in, bounds on what waits to go out.

python-socketio bounds neither: it queues for a client that never reads until memory ends, keeps connections that never
ask to be let in, and takes any number of messages. Everything here uses its public calls and the engine's queue
(`eio.sockets[id].queue`). Knows nothing of rooms.
"""

import asyncio
import logging
from typing import Any, Final

import engineio
import socketio
from aiohttp import web
from engineio import packet as engine_packet
from socketio import packet as socketio_packet

from cdc_counter.config.gateway import GatewaySettings
from cdc_counter.gateway.budget import Budget
from cdc_counter.gateway.direct import DirectWebSocket, OutgoingQueue, text_frame, written_at_once
from cdc_counter.gateway.messages import CompactJson
from cdc_counter.gateway.origins import Origins
from cdc_counter.metrics import Metrics

_log = logging.getLogger(__name__)

PATH: Final = "/socket.io/"
NAMESPACE: Final = "/"

HANDSHAKE_SECONDS: Final = 10.0
"""How long a connection may stay without having been let into the namespace."""

LINGER_SECONDS: Final = 15.0
"""How long a WebSocket may outlive its session: a client that reads is given ten to answer the closing handshake."""

SWEEP_SECONDS: Final = 1.0

QUEUE_BYTES: Final = 1 << 20
"""A megabyte waiting counts as a full queue: snapshots of thousands of buckets fill memory long before packets do."""

_ACCEPTED: Final = ("0", "1", "2")
"""CONNECT, DISCONNECT, EVENT. We ask for no acknowledgements, and binary attachments would pile up without bound."""


class _EngineServer(engineio.AsyncServer):  # type: ignore[misc]  # the library has no types
    """The library's server. `websockets` are those that are open, of sessions that it has ended too."""

    _async: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.websockets: set[DirectWebSocket] = set()
        self._async = {**self._async, "websocket": DirectWebSocket}

    def create_queue(self, *_args: object, **_options: object) -> OutgoingQueue:
        return OutgoingQueue()


class _SocketServer(socketio.AsyncServer):  # type: ignore[misc]  # the library has no types
    def _engineio_server_class(self) -> type[_EngineServer]:
        return _EngineServer


def _uncompressed(request: web.Request) -> web.Request:
    """Take away the offer to compress: it costs memory per client, and lengths of compressed secrets can be guessed."""
    offer = "Sec-WebSocket-Extensions"
    if offer not in request.headers:
        return request
    headers = request.headers.copy()
    del headers[offer]
    return request.clone(headers=headers)


class Engine:
    """One Socket.IO server and the connections below it. `handshake_seconds` is a parameter for tests."""

    def __init__(
        self,
        settings: GatewaySettings,
        origins: Origins,
        metrics: Metrics,
        *,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        self._settings = settings
        self._origins = origins
        self._metrics = metrics
        self._handshake_seconds = handshake_seconds
        # At INFO the library logs every packet, tokens included, and at ERROR session ids: both are credentials.
        silent = logging.getLogger(f"{__name__}.library")
        silent.setLevel(logging.CRITICAL + 1)
        self.server: Any = _SocketServer(
            async_mode="aiohttp",
            json=CompactJson,
            logger=silent,
            engineio_logger=silent,
            transports=list(settings.transports),
            max_http_buffer_size=settings.max_message_bytes,
            http_compression=False,
            cors_allowed_origins=self._library_origin_check,
            cors_credentials=False,
        )
        self._accept = self.server.eio.handlers["message"]
        self.server.eio.on("message", self._message)
        # Whoever comes back asks for all it had at once; four seconds' worth, or all that twice.
        self._burst = max(4 * settings.messages_per_second, 2.0 * settings.max_subscriptions)
        self._budgets: dict[str, Budget] = {}
        self._outside: dict[str, int] = {}
        """How many sweeps have found a connection outside the namespace."""
        self._cut: set[str] = set()
        self._lingering: dict[DirectWebSocket, int] = {}
        """How many sweeps have found a WebSocket whose session has ended."""

    def attach(self, app: web.Application) -> None:
        """Serve Socket.IO under its usual path."""
        for method in ("GET", "POST", "OPTIONS"):
            app.router.add_route(method, PATH, self._serve)

    def capacity(self, connection: str, *, behind: bool) -> int:
        """Return how many more packets may wait for a connection; a lower bound for one that was behind."""
        socket = self.server.eio.sockets.get(connection)
        if socket is None:
            return 0
        queue: OutgoingQueue = socket.queue
        limit = self._settings.max_queue // (4 if behind else 1)
        waiting = queue.qsize()
        # Nearly always nothing waits, and this is asked for each message to each client.
        if not waiting:
            return limit
        if waiting > 1 and queue.waiting_bytes > QUEUE_BYTES:
            return 0
        return max(0, limit - waiting)

    async def emptied(self, connection: str) -> bool:
        """Wait until everything that waits for a connection was taken; False when the connection is gone."""
        socket = self.server.eio.sockets.get(connection)
        if socket is None:
            return False
        await socket.queue.emptied.wait()
        return True

    async def send(self, connections: list[str], event: str, body: dict[str, Any]) -> None:
        """Send one event to some connections, encoded once. Lets nobody else run meanwhile."""
        text = socketio_packet.Packet(socketio_packet.EVENT, namespace=NAMESPACE, data=[event, body]).encode()
        shared = engine_packet.Packet(engine_packet.MESSAGE, text)
        frame = text_frame(shared.encode())
        sockets = self.server.eio.sockets
        for connection in connections:
            socket = sockets.get(connection)
            if socket is None or not written_at_once(socket, frame):
                await self.server.eio.send_packet(connection, shared)

    async def cut(self, connection: str, reason: str) -> None:
        """End a connection without waiting for its peer, who may never read again."""
        socket = self.server.eio.sockets.get(connection)
        if socket is None or connection in self._cut:
            return
        self._cut.add(connection)
        self._metrics.clients_refused.labels(reason).inc()
        _log.info("connection cut: %s", reason)
        websockets = tuple(socket.queue.websockets)
        for websocket in websockets:
            websocket.abort()
        if not (socket.upgraded and websockets):
            # Long polling may come through a proxy that shares its connection with others: only the session ends.
            await self._end(connection)

    async def sweep(self) -> None:
        """Cut whoever stays outside, lets packets pile up or does not go, for ever."""
        pause = min(SWEEP_SECONDS, self._handshake_seconds / 4)
        while True:
            await self._sweep_once(round(self._handshake_seconds / pause))
            self._abort_lingering(round(LINGER_SECONDS / pause))
            await asyncio.sleep(pause)

    async def close(self, grace_seconds: float) -> None:
        """Let every connection finish what waits for it, then end it; clients see a lost transport and reconnect."""
        sockets = self.server.eio.sockets
        for socket in tuple(sockets.values()):
            # The library's own word for "send what is there and close". A Socket.IO DISCONNECT would tell JavaScript
            # clients not to come back.
            socket.queue.put_nowait(None)
        deadline = asyncio.get_running_loop().time() + grace_seconds
        while any(socket.upgraded for socket in sockets.values()):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.01)
        for connection in tuple(sockets):
            await self.cut(connection, "shutdown")
        await self.server.shutdown()

    def _library_origin_check(self, origin: str | None, environ: dict[str, Any]) -> bool:
        return self._origins.allows(origin, environ.get("HTTP_HOST"))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not self._origins.allows(request.headers.get("Origin"), request.headers.get("Host")):
            self._metrics.clients_refused.labels("origin").inc()
            return web.json_response({"error": "origin not allowed"}, status=403)
        # An empty one begins a session, as none does.
        session = request.query.get("sid") or None
        if "j" in request.query:
            # Script-tag polling has no origin check in browsers.
            return web.json_response({"error": "jsonp is not served"}, status=400)
        if session is None and len(self.server.eio.sockets) >= self._settings.max_clients:
            self._metrics.clients_refused.labels("full").inc()
            return web.json_response({"error": "too many clients"}, status=503)
        if request.method == "POST" and not 0 <= (request.content_length or 0) <= self._settings.max_message_bytes:
            return web.json_response({"error": "too much at once"}, status=413)
        served = _uncompressed(request)
        try:
            response: web.StreamResponse = await self.server.handle_request(served)
        except Exception as error:  # noqa: BLE001  # as in _message
            _log.debug("request refused by the library: %s", type(error).__name__)
            return await self._break_off(served, session)
        return response

    async def _break_off(self, request: web.Request, session: str | None) -> web.Response:
        """End the connection of a request that the library has left in the middle: it would keep the session."""
        if session is None:
            sessions = self.server.environ.items()
            session = next((sid for sid, environ in sessions if environ.get("aiohttp.request") is request), None)
        if session is not None and session in self.server.eio.sockets:
            self._metrics.clients_refused.labels("malformed").inc()
            await self._end(session)
        if request.transport is not None and "Upgrade" in request.headers:
            request.transport.abort()
        return web.json_response({"error": "malformed"}, status=400)

    async def _end(self, connection: str) -> None:
        socket = self.server.eio.sockets[connection]
        await socket.close(wait=False, abort=True)
        # Wakes whoever waits for packets. The library forgets closed sessions only now and then.
        socket.queue.put_nowait(None)
        self.server.eio.sockets.pop(connection, None)

    async def _message(self, connection: str, data: str | bytes) -> None:
        # After a CLOSE of its own the library still reads what a WebSocket sends.
        socket = self.server.eio.sockets.get(connection)
        if connection in self._cut or socket is None or socket.closed:
            return
        now = asyncio.get_running_loop().time()
        budget = self._budgets.get(connection)
        if budget is None:
            budget = self._budgets[connection] = Budget(self._settings.messages_per_second, self._burst, now)
        if not budget.take(now):
            await self.cut(connection, "flood")
            return
        if self._is_stuffed(connection):
            await self.cut(connection, "asks without reading")
            return
        if not isinstance(data, str) or not data.startswith(_ACCEPTED):
            await self.cut(connection, "malformed")
            return
        try:
            await self._accept(connection, data)
        except Exception as error:  # noqa: BLE001  # hostile bytes make the library raise anything at all
            # Neither text nor traceback: both may quote what was sent.
            _log.debug("message refused by the library: %s", type(error).__name__)
            await self.cut(connection, "malformed")

    def _is_stuffed(self, connection: str) -> bool:
        socket = self.server.eio.sockets.get(connection)
        if socket is None:
            return False
        # Our own events stop at max_queue; only acknowledgements and control packets can go beyond it.
        return bool(socket.queue.qsize() > 2 * self._settings.max_queue or socket.queue.waiting_bytes > 4 * QUEUE_BYTES)

    async def _sweep_once(self, patience: int) -> None:
        # In sweeps, not in seconds: when two thousand clients come at once a sweep is late, and so is our reading of
        # what they sent long ago. Their silence is ours then.
        sockets = self.server.eio.sockets
        manager = self.server.manager
        for connection in tuple(sockets):
            session = manager.sid_from_eio_sid(connection, NAMESPACE)
            if session is not None and manager.is_connected(session, NAMESPACE):
                self._outside.pop(connection, None)
            else:
                self._outside[connection] = self._outside.get(connection, 0) + 1
                if self._outside[connection] > patience:
                    await self.cut(connection, "never connected")
            if self._is_stuffed(connection):
                await self.cut(connection, "does not read")
        for gone in self._budgets.keys() - sockets.keys():
            del self._budgets[gone]
        for gone in self._outside.keys() - sockets.keys():
            del self._outside[gone]
        self._cut.intersection_update(sockets)

    def _abort_lingering(self, patience: int) -> None:
        self._lingering = {
            websocket: self._lingering.get(websocket, 0) + 1
            for websocket in self.server.eio.websockets
            if websocket.outlives_its_session
        }
        for websocket, sweeps in self._lingering.items():
            if sweeps > patience:
                websocket.abort()
