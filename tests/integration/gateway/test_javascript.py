"""The JavaScript clients that browsers run: socket.io-client as it comes from npm, and cdc-counter.js over it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.async_api import Browser

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import Change
from tests.integration.gateway.conftest import Start, serve
from tests.integration.gateway.script import Script

SECRET = "a secret of at least thirty-two bytes"
CLIENT = Path(str(files("cdc_counter.gateway"))) / "static" / "cdc-counter.js"


class Page:
    """A Node process that runs tests/js/watch.mjs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def told(self, wanted: Callable[[list[Any]], bool]) -> list[Any]:
        """Return the next line that is wanted."""
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self._process.stdout.readline():
                if wanted(told := json.loads(line)):
                    return list(told)
        raise AssertionError("the page ended")

    async def view(self, **wanted: Any) -> dict[str, Any]:
        """Return the next view that has these entries."""
        line = await self.told(lambda told: told[0] == "view" and wanted.items() <= told[1].items())
        return dict(line[1])

    async def status(self, status: str) -> None:
        await self.told(lambda told: told == ["status", status])

    async def do(self, *command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()


@asynccontextmanager
async def page(program: list[Path], url: str, client: str, **options: Any) -> AsyncIterator[Page]:
    pipe = asyncio.subprocess.PIPE
    arguments = [*map(str, program), url, client, json.dumps(options)]
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, limit=1 << 24)
    try:
        yield Page(process)
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def open_page(node: Path, js_modules: Path, stack: AsyncExitStack) -> Callable[..., Any]:
    program = [node, js_modules / "watch.mjs"]

    async def open_one(url: str, *subscriptions: list[Any], client: str = CLIENT.as_uri(), **options: Any) -> Page:
        return await stack.enter_async_context(page(program, url, client, subscriptions=subscriptions, **options))

    return open_one


def value_at(script: Script, number: int) -> None:
    script.change("open_by_channel", "42", {"7": number})


async def test_client_with_default_options_upgrades_and_gets_every_event(
    script: Script, start: Start, open_page: Callable[..., Any]
) -> None:
    value_at(script, 1)
    watching = await open_page((await start()).url, ["open_by_channel", 42], client="plain")
    _, snapshot = await watching.told(lambda told: told[0] == "ack")
    assert (snapshot["values"], snapshot["state"]) == ({"7": 1}, "live")
    value_at(script, 2)
    _, event = await watching.told(lambda told: told[0] == "tally")
    assert (event["changes"], event["version"]) == ({"7": 2}, script.version.version)


async def test_page_shows_the_snapshot_and_every_change_whole(
    script: Script, start: Start, open_page: Callable[..., Any]
) -> None:
    script.change("open_by_channel", "42", {"7": 1, "__proto__": 5})
    watching = await open_page((await start()).url, ["open_by_channel", 42])
    await watching.view(values={"7": 1, "__proto__": 5}, scope="42", state="live")
    script.change("open_by_channel", "42", {"7": 0, "8": 2})
    await watching.view(values={"8": 2, "__proto__": 5}, version=script.version.version)


async def test_page_is_told_that_its_counter_was_removed(
    script: Script, start: Start, open_page: Callable[..., Any]
) -> None:
    value_at(script, 3)
    watching = await open_page((await start()).url, ["open_by_channel", 42])
    await watching.view(values={"7": 3}, state="live")
    del script.counters["open_by_channel"]
    script.reset("open_by_channel")
    await watching.view(values={"7": 3}, state="stale", removed=True)
    _, error = await watching.told(lambda told: told[0] == "error")
    assert error == {"error": "not found"}


async def test_page_comes_back_to_a_fresh_snapshot_after_a_restart(
    script: Script, open_page: Callable[..., Any]
) -> None:
    value_at(script, 1)
    async with serve(script) as served:
        port = served.address[1]
        watching = await open_page(served.url, ["open_by_channel", "42"], ["total", None])
        await watching.view(values={"7": 1})
        served.stop.set()
        await watching.status("connecting")
    value_at(script, 2)
    async with serve(script, port=port):
        await watching.view(values={"7": 2})
        value_at(script, 3)
        await watching.view(values={"7": 3})


async def test_page_ignores_what_is_older_within_an_epoch_only(
    script: Script, start: Start, open_page: Callable[..., Any]
) -> None:
    value_at(script, 1)
    served = await start()
    watching = await open_page(served.url, ["open_by_channel", "42"])
    await watching.view(values={"7": 1})
    value_at(script, 2)
    await watching.view(values={"7": 2})
    body = {"counter": "open_by_channel", "scope": "42", "version": Lsn(16).version}
    await served.gateway._engine.server.emit("tally", body | {"changes": {"7": 100}})
    old = body | {"values": {"7": 200}, "state": "live", "scale": 0}
    await served.gateway._engine.server.emit("reset", old | {"epoch": "e1"})
    await served.gateway._engine.server.emit("reset", old | {"epoch": "e2", "values": {"7": 300}})
    seen = await watching.told(lambda told: told[0] == "view")
    assert (seen[1]["epoch"], seen[1]["values"]) == ("e2", {"7": 300})


async def test_page_gets_a_new_token_when_the_old_one_has_run_out(
    script: Script, start: Start, open_page: Callable[..., Any]
) -> None:
    def token(seconds: float) -> str:
        return jwt.encode({"scopes": ["42"], "exp": time.time() + seconds}, SECRET, algorithm="HS256")

    served = await start(auth={"secret": SECRET, "leeway_seconds": 0})
    watching = await open_page(served.url, ["open_by_channel", "42"], tokens=["bad", token(5), token(60)])
    await watching.view(values={})
    await watching.status("connecting")
    value_at(script, 4)
    await watching.view(values={"7": 4})


async def test_page_is_told_of_a_refusal(start: Start, open_page: Callable[..., Any]) -> None:
    watching = await open_page((await start()).url, ["nothing", "42"])
    assert (await watching.told(lambda told: told[0] == "error"))[1] == {"error": "not found"}


async def test_page_asks_again_while_redis_is_away(script: Script, start: Start, open_page: Callable[..., Any]) -> None:
    served = await start()
    script.down = True
    watching = await open_page(served.url, ["open_by_channel", "42"])
    await watching.status("online")
    script.down = False
    await watching.view(values={})


async def test_page_that_stops_watching_leaves_the_room(
    script: Script, start: Start, open_page: Callable[..., Any]
) -> None:
    served = await start()
    watching = await open_page(served.url, ["open_by_channel", "42"], ["total", None])
    await watching.view(counter="open_by_channel")
    await watching.do("unsubscribe", "open_by_channel", "42")
    await watching.do("subscribe", "open_by_channel", "43")
    await watching.view(scope="43")
    value_at(script, 1)
    script.publish(Change(script.sequence, "open_by_channel", "42", {"7": 1}, script.version))
    script.change("total", "-", {"-": 5})
    seen = await watching.told(lambda told: told[0] == "view" and told[1]["values"] != {})
    assert seen[1]["counter"] == "total"
    assert "cdc_counter_subscriptions 2.0" in served.metrics.exposition().decode()
    await watching.do("close")
    await watching.status("closed")


async def test_browser_loads_the_client_from_the_gateway_and_follows(
    script: Script, start: Start, browser: Browser
) -> None:
    value_at(script, 1)
    served = await start()
    tab = await browser.new_page()
    await tab.goto(f"{served.url}healthz")
    await tab.evaluate(
        """async () => {
            const { connect } = await import("/client/cdc-counter.js");
            connect().subscribe("open_by_channel", 42, ({ values }) => {
                document.title = String(values.get("7"));
            });
        }"""
    )
    await tab.wait_for_function("document.title === '1'")
    value_at(script, 2)
    await tab.wait_for_function("document.title === '2'")
