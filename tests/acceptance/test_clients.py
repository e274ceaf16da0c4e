"""Real clients of a daemon that is killed under them: each ends with what Redis holds, and none ever goes back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import redis
import socketio

from tests.fault.deployment import Deployment, Traffic, fetch
from tests.rig.eventually import eventually

ROOMS = [("open_by_channel", str(account)) for account in range(5)] + [
    ("orders_by_shop", "-"),
    ("conversations", "-"),
]
CLIENT = Path(str(files("cdc_counter.gateway"))) / "static" / "cdc-counter.js"


class Screen:
    """What one client shows, folded from what it was told, and whether it ever went back."""

    def __init__(self) -> None:
        self.rooms: dict[tuple[str, str], dict[str, int]] = {}
        self._versions: dict[tuple[str, str], str] = {}
        self.connections = 0
        self.events = 0
        self.went_back: list[str] = []

    def told(self, what: str, body: dict[str, Any]) -> None:
        """Take an acknowledgement, a `tally`, a `reset` or a whole view."""
        room = (body["counter"], body["scope"])
        version = body["version"]
        if version < self._versions.get(room, ""):
            self.went_back.append(f"{room}: {what} {version} after {self._versions[room]}")
        self._versions[room] = version
        if what == "tally":
            self.events += 1
            values = self.rooms[room] | body["changes"]
        else:
            values = body["values"]
        self.rooms[room] = {bucket: value for bucket, value in values.items() if value}


@asynccontextmanager
async def node_screen(program: list[Path], url: str, client: str) -> AsyncIterator[Screen]:
    """Run a page in Node: "plain" for a bare Socket.IO client, else the URL of cdc-counter.js."""
    screen = Screen()
    options = json.dumps({"subscriptions": ROOMS})
    process = await asyncio.create_subprocess_exec(
        *map(str, program), url, client, options, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            what, body = json.loads(line)
            if what in {"ack", "tally", "reset", "view"}:
                screen.told(what, body)
            last = what == "ack" and body["counter"] == ROOMS[-1][0]
            screen.connections += last or (what, body) == ("status", "online")

    reading = asyncio.create_task(read())
    try:
        yield screen
    finally:
        process.kill()
        await process.wait()
        await reading


@asynccontextmanager
async def python_screen(url: str) -> AsyncIterator[Screen]:
    """Run python-socketio's client."""
    screen = Screen()
    client = socketio.AsyncClient(reconnection_delay=0.2, reconnection_delay_max=1)

    async def connected() -> None:
        screen.connections += 1
        for counter, scope in ROOMS:
            body = {"counter": counter, "scope": scope}
            await client.emit("subscribe", body, callback=lambda answer: screen.told("ack", answer))

    client.on("connect", connected)
    client.on("tally", lambda body: screen.told("tally", body))
    client.on("reset", lambda body: screen.told("reset", body))
    await client.connect(url, transports=["websocket"])
    try:
        yield screen
    finally:
        await client.disconnect()


def rooms_in_redis(url: str) -> dict[tuple[str, str], dict[str, int]]:
    with redis.Redis.from_url(url, protocol=2) as store:
        return {
            (counter, scope): {
                bucket.decode(): int(value) for bucket, value in store.hgetall(f"cdc:tally:{counter}:{scope}").items()
            }
            for counter, scope in ROOMS
        }


async def test_every_client_ends_with_what_redis_holds_after_kills_of_the_daemon(
    database18: str, redis_url: str, tmp_path: Path, node: Path, js_modules: Path
) -> None:
    program = [node, js_modules / "watch.mjs"]
    async with AsyncExitStack() as stack:
        deployment = stack.enter_context(Deployment(database18, redis_url, tmp_path))
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        url = f"http://127.0.0.1:{daemon.port}"
        screens = {
            "python": await stack.enter_async_context(python_screen(url)),
            "socket.io-client": await stack.enter_async_context(node_screen(program, url, "plain")),
            "cdc-counter.js": await stack.enter_async_context(node_screen(program, url, CLIENT.as_uri())),
        }

        async def all_saw(connections: int) -> None:
            async def seen() -> bool:
                return all(screen.connections >= connections for screen in screens.values())

            await eventually(seen, f"every client is connected for the {connections}. time", deadline=30)

        with Traffic(deployment.dsn) as traffic:
            await all_saw(1)
            for kills in (1, 2):
                await asyncio.to_thread(traffic.wait_for_more, 100)
                daemon.kill()
                await asyncio.to_thread(traffic.wait_for_more)
                await asyncio.to_thread(daemon.start().wait_ready)
                await all_saw(1 + kills)
            await asyncio.to_thread(traffic.wait_for_more, 100)
        await asyncio.to_thread(deployment.assert_exact)
        held = rooms_in_redis(redis_url)
        assert all(held.values())
        for name, screen in screens.items():

            async def shows_all(screen: Screen = screen) -> bool:
                return screen.rooms == held

            await eventually(shows_all, f"{name} shows what Redis holds", deadline=15)
            assert screen.went_back == [], name
        assert screens["python"].events > 20
        assert screens["socket.io-client"].events > 20


def test_a_reader_sees_its_own_commit(database18: str, redis_url: str, tmp_path: Path) -> None:
    with Deployment(database18, redis_url, tmp_path) as deployment:
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        with Traffic(deployment.dsn), psycopg.connect(deployment.dsn, autocommit=True) as connection:
            for number in range(1, 101):
                connection.execute("INSERT INTO visits VALUES ('mine', 'eu')")
                row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
                assert row is not None
                status, body = fetch(daemon, f"/v1/counters/visits_by_page?min_lsn={row[0]}&timeout=20")
                assert (status, body["values"].get("mine")) == (200, number)
        status, _ = fetch(daemon, "/v1/counters/visits_by_page?min_lsn=FFFFFFFF/0&timeout=0.2")
        assert status == 504
