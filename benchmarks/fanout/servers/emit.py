"""python-socketio as its documentation shows it: `emit` to a room."""

import asyncio
import sys
from typing import Any

import socketio
from aiohttp import web

from benchmarks.fanout.servers.waves import body, room_of, rooms_of, serve


async def main(rooms: int) -> None:
    """Serve."""
    server: Any = socketio.AsyncServer(async_mode="aiohttp")
    app = web.Application()
    server.attach(app)

    async def subscribe(client: str, wanted: dict[str, Any]) -> dict[str, Any]:
        await server.enter_room(client, room_of(wanted))
        return wanted

    server.on("subscribe", subscribe)
    async for kind, value in serve(app):
        for scope in rooms_of(kind, rooms):
            event = body(kind, scope, value)
            await server.emit("tally", event, room=room_of(event))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
