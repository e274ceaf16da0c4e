"""What the Python peers have in common: the lines they are told, and what they send."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

from aiohttp import web

ONE: Final = "one"
SPREAD: Final = "spread"
COUNTERS: Final = {ONE: "everywhere", SPREAD: "by_room"}


def rooms_of(kind: str, count: int) -> Iterator[str]:
    """Return the scopes that a wave of this kind changes, of so many small rooms."""
    return iter(["-"]) if kind == ONE else map(str, range(count))


def room_of(wanted: Mapping[str, str]) -> str:
    """Return the name of the room that a client asks for."""
    return f"{wanted['counter']}:{wanted.get('scope', '-')}"


def body(kind: str, scope: str, value: int) -> dict[str, Any]:
    """Return the body of an event."""
    return {"counter": COUNTERS[kind], "scope": scope, "changes": {"-": value}, "version": f"{value:016X}"}


def text_of(kind: str, scope: str, value: int) -> str:
    """Return a whole event as text, for who has no library to make it."""
    return f"42{json.dumps(['tally', body(kind, scope, value)], separators=(',', ':'))}"


async def serve(app: web.Application) -> AsyncIterator[tuple[str, int]]:
    """Serve on a free port and yield the waves that are asked for."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async for kind, value in waves(runner.addresses[0][1]):
        yield kind, value


async def waves(port: int) -> AsyncIterator[tuple[str, int]]:
    """Say the port, then yield kind and value of each wave that standard input asks for, until it is closed."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        kind, value = line.split()
        yield kind.decode(), int(value)
