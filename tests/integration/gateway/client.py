"""The Python Socket.IO client, recording what it is sent."""

import asyncio
from typing import Any

import socketio

from tests.rig.eventually import eventually


class Client:
    """Connects without reconnecting by itself; `events` are (event, body) in the order of arrival."""

    def __init__(self, *, reconnection: bool = False) -> None:
        self.socket: Any = socketio.AsyncClient(reconnection=reconnection)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.refusals: list[Any] = []
        self.gone = asyncio.Event()
        self.socket.on("tally", self._tally)
        self.socket.on("reset", self._reset)
        self.socket.on("connect_error", self.refusals.append)
        self.socket.on("disconnect", self._disconnected)

    async def connect(
        self, url: str, *, token: str | None = None, transports: tuple[str, ...] = ("websocket",)
    ) -> None:
        auth = {"token": token} if token is not None else None
        await self.socket.connect(url, auth=auth, transports=list(transports))

    async def close(self) -> None:
        await self.socket.disconnect()

    async def ask(self, event: str, *arguments: Any) -> Any:
        """Emit with an acknowledgement."""
        return await self.socket.call(event, arguments if len(arguments) != 1 else arguments[0], timeout=60)

    async def subscribe(self, counter: Any, scope: Any = None) -> Any:
        request = {"counter": counter} | ({"scope": scope} if scope is not None else {})
        return await self.ask("subscribe", request)

    async def received(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        """Wait until so many events came; return all of them."""

        async def so_far() -> list[tuple[str, dict[str, Any]]]:
            return list(self.events)

        return await eventually(so_far, f"{count} events", until=lambda events: len(events) >= count, deadline=10)

    def _tally(self, body: dict[str, Any]) -> None:
        self.events.append(("tally", body))

    def _reset(self, body: dict[str, Any]) -> None:
        self.events.append(("reset", body))

    def _disconnected(self, *_reason: object) -> None:
        self.gone.set()


def replay(snapshot: dict[str, Any], events: list[tuple[str, dict[str, Any]]]) -> dict[str, int]:
    """Return what a client that trusts the protocol shows after these events; fails if a version goes down."""
    values, version, epoch = dict(snapshot["values"]), snapshot["version"], snapshot["epoch"]
    for event, body in events:
        if event == "reset":
            assert body["epoch"] != epoch or body["version"] >= version
            values, epoch = dict(body["values"]), body["epoch"]
        else:
            assert body["version"] >= version
            values.update(body["changes"])
            values = {bucket: value for bucket, value in values.items() if value}
        version = body["version"]
    return values
