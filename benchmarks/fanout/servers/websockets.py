"""aiohttp's WebSockets and nothing above them: a text encoded once a room, sent to one connection after the other."""

import asyncio
import json
import sys
from collections import defaultdict

from aiohttp import WSMsgType, web

from benchmarks.fanout.servers.waves import COUNTERS, room_of, rooms_of, serve, text_of

_NUMBER = slice(2, 3)
"""Of the acknowledgement asked for, in a packet `420["subscribe",...]`."""


async def main(rooms: int) -> None:
    """Serve."""
    members: dict[str, list[web.WebSocketResponse]] = defaultdict(list)

    async def accept(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                _, wanted = json.loads(message.data[3:])
                members[room_of(wanted)].append(socket)
                await socket.send_str(f"43{message.data[_NUMBER]}[]")
        return socket

    app = web.Application()
    app.router.add_get("/", accept)
    async for kind, value in serve(app):
        for scope in rooms_of(kind, rooms):
            text = text_of(kind, scope, value)
            for socket in members[f"{COUNTERS[kind]}:{scope}"]:
                await socket.send_str(text)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
