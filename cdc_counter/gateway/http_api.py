"""The HTTP API: one reading per request, waiting for a commit of the caller's own where it asks for that.

What differs from the Socket.IO side is only the envelope: the same rooms, grants and shapes.
"""

import asyncio
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

from cdc_counter.core.definition import NO_KEY
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import Reading
from cdc_counter.errors import ProtocolError, UnreachableError
from cdc_counter.gateway.arrivals import Arrivals
from cdc_counter.gateway.grants import Authority, UnauthorizedError, bearer_token
from cdc_counter.gateway.messages import (
    NOT_FOUND,
    UNAVAILABLE,
    InvalidArgumentError,
    dump_bytes,
    requested_room,
    snapshot_of,
)
from cdc_counter.gateway.readings import Readings, Turns
from cdc_counter.gateway.rooms import RoomKey

PREFIX: Final = "/v1/counters/"

LONGEST_WAIT: Final = 30.0
DEFAULT_WAIT: Final = 1.0

MOST_WAITING: Final = 10_000
"""Requests that wait for a position at once; each holds a connection and a few hundred bytes."""


class CounterApi:
    """`GET /v1/counters/{counter}` and `GET /v1/counters/{counter}/{scope}`.

    As many requests read at once as readers of rooms do: each takes a connection to Redis. The others wait for a turn.
    """

    def __init__(self, readings: Readings, arrivals: Arrivals, authority: Authority) -> None:
        self._readings = readings
        self._arrivals = arrivals
        self._authority = authority
        self._turns = Turns()

    def attach(self, app: web.Application) -> None:
        """Add the routes. A scope is one percent-encoded text and may hold anything, slashes too."""
        app.router.add_get(PREFIX + r"{path:[\s\S]*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            grant = self._authority.grant(bearer_token(request.headers.get("Authorization")))
        except UnauthorizedError as error:
            return answer({"error": "unauthorized", "reason": str(error)}, 401, {"WWW-Authenticate": "Bearer"})
        try:
            key, scope_named = _room(request.raw_path)
            position, seconds = _wish(request)
        except InvalidArgumentError as error:
            return answer({"error": "invalid", "reason": str(error)}, 400)
        try:
            reading = await self._read(key, scope_named=scope_named) if grant.allows(key) else None
            if reading is not None and position is not None and reading.version < position:
                reading = await self._read_at(key, position, seconds, reading)
        except UnreachableError:
            return answer({"error": UNAVAILABLE}, 503)
        if reading is None:
            return answer({"error": NOT_FOUND}, 404)
        if position is not None and reading.version < position:
            return answer({"error": "not there yet", "version": reading.version.version}, 504)
        return answer(snapshot_of(reading))

    async def _read(self, key: RoomKey, *, scope_named: bool) -> Reading | None:
        """Return a reading, None where there is no such room; a counter with scopes has none without."""
        async with self._turns.one():
            reading = await self._readings.read(key)
        return None if reading is None or (reading.scoped and not scope_named) else reading

    async def _read_at(self, key: RoomKey, position: Lsn, seconds: float, latest: Reading) -> Reading | None:
        """Return the first reading that includes `position`, else the latest there was when the time was over.

        None when the counter was removed meanwhile.
        """
        if len(self._arrivals) >= MOST_WAITING:
            raise UnreachableError(f"{MOST_WAITING} requests wait already")
        try:
            async with asyncio.timeout(seconds):
                while latest.version < position:
                    await self._arrivals.wait(key, position)
                    async with self._turns.one():
                        reading = await self._readings.read(key)
                    if reading is None:
                        return None
                    latest = reading
        except TimeoutError:
            pass
        return latest


def answer(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response that nobody may store."""
    return web.Response(
        body=dump_bytes(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _room(raw_path: str) -> tuple[RoomKey, bool]:
    """Return the room, and whether the path names a scope at all."""
    # From the request line itself: the parsed path has lost the difference between '/' and '%2F'.
    path = raw_path.partition("?")[0].removeprefix(PREFIX)
    counter, slash, scope = path.partition("/")
    try:
        names = [unquote_to_bytes(part).decode() for part in (counter, scope)]
    except UnicodeDecodeError:
        raise InvalidArgumentError("the path must be percent-encoded UTF-8") from None
    return requested_room(names[0], names[1] if slash else NO_KEY), bool(slash)


def _wish(request: web.Request) -> tuple[Lsn | None, float]:
    text = request.query.get("min_lsn")
    try:
        position = Lsn.parse(text) if text is not None else None
    except ProtocolError:
        raise InvalidArgumentError("min_lsn must be an LSN such as 0/1A2B3C4") from None
    try:
        seconds = float(request.query.get("timeout", DEFAULT_WAIT))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT:
        raise InvalidArgumentError(f"timeout must be seconds from 0 to {LONGEST_WAIT:.0f}")
    return position, seconds
