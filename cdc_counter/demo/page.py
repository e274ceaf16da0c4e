"""The demo's page and what it asks for, as routes beside the gateway's.

The live numbers do not come from here: the page subscribes to the gateway like any other client.
"""

import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson
import psycopg
from aiohttp import web

from cdc_counter.core.reading import Reading
from cdc_counter.demo.actions import BUTTONS, SCOPES, perform
from cdc_counter.demo.recount import Verdict, recount
from cdc_counter.demo.shell import psql_line
from cdc_counter.errors import UnreachableError
from cdc_counter.resources import sql_blocks

_STATIC: Final = Path(__file__).with_name("static")
_FILES: Final = ("demo.css", "demo.js")
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self' ws://127.0.0.1:* ws://localhost:*",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class DemoPage:
    """Routes under / and /demo. `read` reads the tallies of a counter and scope."""

    def __init__(self, dsn: str, read: Callable[[str, str], Awaitable[Reading]]) -> None:
        self._dsn = dsn
        self._read = read

    def routes(self) -> list[web.RouteDef]:
        """Return them, for `app.add_routes`."""
        return [
            web.get("/", self._file("index.html")),
            *(web.get(f"/demo/{name}", self._file(name)) for name in _FILES),
            web.get("/demo/layout", self._layout),
            web.get("/demo/recount", self._recount),
            web.get("/demo/activity", self._activity),
            web.post("/demo/actions/{name}", self._action),
            web.post("/demo/traffic/{switch:on|off}", self._traffic),
            web.post("/demo/probe", self._probe),
            web.post("/demo/kill", self._kill),
        ]

    def _file(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(_: web.Request) -> web.StreamResponse:
            return web.FileResponse(_STATIC / name, headers=_HEADERS)

        return serve

    async def _layout(self, _: web.Request) -> web.Response:
        async with await self._connect() as connection:
            row = await (await connection.execute(sql_blocks("demo")["layout"].encode())).fetchone()
        return _json({"accounts": row[0] if row else [], "psql": psql_line(self._dsn)})

    async def _recount(self, request: web.Request) -> web.Response:
        account = _account(request)
        try:
            result = await recount(self._dsn, account, self._read)
        except (psycopg.OperationalError, UnreachableError) as error:
            # A lock that somebody holds for long, or a server that somebody stopped.
            return _json({"verdict": Verdict.PENDING, "reason": str(error)})
        return _json(
            {
                "verdict": result.verdict,
                "version": result.lsn.version,
                "lsn": str(result.lsn),
                "truth": result.truth,
                "tallies": result.tallies,
                "milliseconds": round(result.seconds * 1000, 1),
            }
        )

    async def _activity(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        parameters = {"account": _account(request), "after": int(after) if after.isascii() and after.isdigit() else 0}
        async with await self._connect() as connection:
            rows = await (await connection.execute(sql_blocks("demo")["activity"].encode(), parameters)).fetchall()
            running = await (await connection.execute("SELECT running FROM helpdesk.demo_traffic")).fetchone()
        names = ("id", "at", "who", "account", "what", "rows")
        return _json(
            {
                "running": bool(running and running[0]),
                "entries": [dict(zip(names, row, strict=True)) for row in reversed(rows)],
            }
        )

    async def _action(self, request: web.Request) -> web.Response:
        _from_own_page(request)
        action = BUTTONS.get(request.match_info["name"])
        if action is None:
            raise web.HTTPNotFound
        try:
            async with await self._connect() as connection:
                rows = await perform(connection, action, _account(request), "you")
        except psycopg.OperationalError as error:
            raise web.HTTPConflict(text=str(error)) from error  # a deadlock with the traffic: rolled back, try again
        return _json({"what": action.what, "rows": rows})

    async def _traffic(self, request: web.Request) -> web.Response:
        _from_own_page(request)
        running = request.match_info["switch"] == "on"
        async with await self._connect() as connection:
            await connection.execute("UPDATE helpdesk.demo_traffic SET running = %s", [running])
        return _json({"running": running})

    async def _probe(self, request: web.Request) -> web.Response:
        _from_own_page(request)
        async with await self._connect() as connection:
            async with connection.transaction():
                row = await (await connection.execute(sql_blocks("demo")["probe"].encode())).fetchone()
            # The browser runs on this machine, by the same clock.
            committed = time.time() * 1000
        return _json({"value": row[0] if row else 0, "committed_at": committed})

    async def _kill(self, request: web.Request) -> web.Response:
        _from_own_page(request)
        # No answer: it is the real thing. Whoever started this process starts it again.
        os.kill(os.getpid(), signal.SIGKILL)
        raise web.HTTPServiceUnavailable

    async def _connect(self) -> psycopg.AsyncConnection:
        try:
            return await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        except psycopg.OperationalError as error:
            raise web.HTTPServiceUnavailable(text="PostgreSQL does not answer") from error


def _account(request: web.Request) -> int:
    for account in SCOPES:
        if request.query.get("account") == str(account):
            return account
    raise web.HTTPBadRequest(text=f"account must be one of {', '.join(map(str, SCOPES))}")


def _from_own_page(request: web.Request) -> None:
    """Refuse what another site's page sent: no form can set this header, and no foreign name leads here."""
    if request.headers.get("X-Demo") != "1" or urlsplit(f"//{request.host}").hostname not in _LOOPBACK:
        raise web.HTTPForbidden


def _json(value: object) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), content_type="application/json", headers={"Cache-Control": "no-store"}
    )
