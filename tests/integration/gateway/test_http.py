"""The HTTP API, probes, metrics, origins and the files of the browser client."""

import asyncio
import re
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from cdc_counter.core.lsn import Lsn
from cdc_counter.gateway.readings import READERS
from tests.integration.gateway.conftest import Start
from tests.integration.gateway.script import Script, status
from tests.rig.eventually import eventually


async def get(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, Any]:
    async with http.get(URL(url, encoded=True), headers=headers) as response:
        return response.status, await response.json()


async def test_reading_has_the_contracted_shape(script: Script, start: Start, http: aiohttp.ClientSession) -> None:
    script.change("open_by_channel", "42", {"7": 3})
    url = (await start()).url
    assert await get(http, f"{url}v1/counters/open_by_channel/42") == (
        200,
        {
            "counter": "open_by_channel", "scope": "42", "values": {"7": 3}, "version": "0000000000001010",
            "state": "live", "epoch": "e1", "scale": 0, "verified_at": None,
        },
    )  # fmt: skip
    assert (await get(http, f"{url}v1/counters/total"))[1]["scope"] == "-"


@pytest.mark.parametrize("scope", ["a/b", "a%2Fb", "ü ♥", "a?b&c#d", "a+b", "[7,null]", "\\N", "line\nbreak", "..a"])
async def test_scope_may_hold_any_character(
    scope: str, script: Script, start: Start, http: aiohttp.ClientSession
) -> None:
    script.change("open_by_channel", scope, {"7": 3})
    code, body = await get(http, f"{(await start()).url}v1/counters/open_by_channel/{quote(scope, safe='')}")
    assert (code, body["scope"], body["values"]) == (200, scope, {"7": 3})


async def test_unknown_counters_and_impossible_scopes_are_not_found(start: Start, http: aiohttp.ClientSession) -> None:
    url = (await start()).url
    for path in ("nothing", "nothing/42", "total/42", "open_by_channel"):
        assert await get(http, f"{url}v1/counters/{path}") == (404, {"error": "not found"})
    assert await get(http, f"{url}elsewhere") == (404, {"error": "not found"})


@pytest.mark.parametrize(
    "query", ["min_lsn=1", "min_lsn=0/XYZ", "min_lsn=", "timeout=-1", "timeout=31", "timeout=nan", "timeout=x"]
)
async def test_bad_query_is_refused(query: str, start: Start, http: aiohttp.ClientSession) -> None:
    code, body = await get(http, f"{(await start()).url}v1/counters/total?{query}")
    assert (code, body["error"]) == (400, "invalid")


async def test_redis_away_is_503(script: Script, start: Start, http: aiohttp.ClientSession) -> None:
    served = await start()
    script.down = True
    assert await get(http, f"{served.url}v1/counters/total") == (503, {"error": "unavailable"})
    assert await get(http, f"{served.url}healthz") == (200, {"alive": True})
    assert (await get(http, f"{served.url}readyz"))[0] == 503


async def test_request_whose_turn_does_not_come_is_503(
    script: Script, start: Start, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_counter.gateway.readings._PATIENCE", 0.05)
    url = f"{(await start()).url}v1/counters/total"
    script.may_read.clear()
    first = [asyncio.create_task(get(http, url)) for _ in range(READERS)]

    async def reading() -> bool:
        return script.reads == READERS

    await eventually(reading, "as many readings as may be")
    async with asyncio.timeout(20):
        assert await get(http, url) == (503, {"error": "unavailable"})
    script.may_read.set()
    assert {code for code, _ in await asyncio.gather(*first)} == {200}
    assert (await get(http, url))[0] == 200


@pytest.mark.parametrize("counted", [True, False], ids=["own commit counted", "own commit not counted"])
async def test_own_write_is_waited_for(
    counted: bool, script: Script, start: Start, http: aiohttp.ClientSession
) -> None:
    url = (await start()).url
    wanted = Lsn(script.version + 16)
    asking = asyncio.ensure_future(get(http, f"{url}v1/counters/total?min_lsn={wanted}&timeout=20"))

    async def waits() -> bool:
        return script.reads >= 3

    await eventually(waits, "the request to wait")
    assert not asking.done()
    if counted:
        script.change("total", "-", {"-": 5})
    else:
        script.pass_by()
    code, body = await asking
    assert (code, body["version"]) == (200, wanted.version)


async def test_counter_that_is_removed_while_its_position_is_waited_for_is_not_found(
    script: Script, start: Start, http: aiohttp.ClientSession
) -> None:
    url = (await start()).url
    wanted = Lsn(script.version + 16)
    asking = asyncio.ensure_future(get(http, f"{url}v1/counters/total?min_lsn={wanted}&timeout=20"))
    await eventually(lambda: asyncio.sleep(0, script.reads >= 3), "the request to wait")
    del script.counters["total"]
    assert await asking == (404, {"error": "not found"})


async def test_position_not_reached_in_time_is_504(script: Script, start: Start, http: aiohttp.ClientSession) -> None:
    url = (await start()).url
    code, body = await get(http, f"{url}v1/counters/total?min_lsn={Lsn(script.version + 1)}&timeout=0.05")
    assert (code, body) == (504, {"error": "not there yet", "version": script.version.version})


async def test_readiness_is_the_consumers_progress(script: Script, start: Start, http: aiohttp.ClientSession) -> None:
    url = (await start()).url
    assert await get(http, f"{url}readyz") == (200, {"ready": True})
    script.report = status(progress_age=100.0)
    assert (await get(http, f"{url}readyz"))[0] == 503
    script.report = None
    assert await get(http, f"{url}readyz") == (503, {"ready": False, "reason": "no consumer reports"})


async def test_metrics_of_a_gateway_apart_show_the_consumers_lag(
    script: Script, start: Start, http: aiohttp.ClientSession
) -> None:
    url = (await start()).url
    script.report = status(pid=1, lag=7.5, backlog=4096)
    async with http.get(f"{url}metrics") as response:
        text = await response.text()
    assert "cdc_counter_lag_seconds 7.5" in text
    assert "cdc_counter_backlog_bytes 4096.0" in text


async def test_route_labels_do_not_grow_with_what_strangers_ask(start: Start, http: aiohttp.ClientSession) -> None:
    served = await start()
    for number in range(20):
        await get(http, f"{served.url}v1/counters/total/{number}")
        await get(http, f"{served.url}guess/{number}")
    routes = set(re.findall(r'route="([^"]*)"', served.metrics.exposition().decode()))
    assert len(routes) == 2


@pytest.mark.parametrize(
    ("origin", "listed", "served_there"),
    [
        ("https://desk.example", (), False),
        ("null", (), False),
        ("https://desk.example", ("https://desk.example",), True),
        ("http://desk.example", ("https://desk.example",), False),
        ("https://desk.example.evil", ("https://desk.example",), False),
    ],
)
async def test_only_listed_origins_are_served(
    origin: str, listed: tuple[str, ...], served_there: bool, start: Start, http: aiohttp.ClientSession
) -> None:
    url = (await start(cors_origins=listed)).url
    # A proxy's header is no proof of where the page is from.
    headers = {"Origin": origin, "X-Forwarded-Host": "desk.example", "X-Forwarded-Proto": "https"}
    async with http.get(f"{url}socket.io/?EIO=4&transport=polling", headers=headers) as response:
        assert response.status == (200 if served_there else 403)
        assert response.headers.get("Access-Control-Allow-Origin") == (origin if served_there else None)
    async with http.get(f"{url}v1/counters/total", headers=headers) as response:
        assert response.headers.get("Access-Control-Allow-Origin") == (origin if served_there else None)
    preflight = headers | {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    async with http.options(f"{url}v1/counters/total", headers=preflight) as response:
        assert (response.status == 204) == served_there


async def test_own_page_is_served_and_a_rebound_name_is_not(start: Start, http: aiohttp.ClientSession) -> None:
    url = (await start()).url
    own = url.rstrip("/")
    async with http.get(f"{url}socket.io/?EIO=4&transport=polling", headers={"Origin": own}) as response:
        assert response.status == 200
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    async with http.get(f"{url}socket.io/?EIO=4&transport=polling", headers=rebound) as response:
        assert response.status == 403
    assert (await get(http, f"{url}v1/counters/total", Host="evil.example"))[0] == 403
    assert (await get(http, f"{url}healthz", Host="evil.example"))[0] == 200


async def test_transports_not_listed_are_refused(start: Start, http: aiohttp.ClientSession) -> None:
    url = (await start(transports=("websocket",))).url
    async with http.get(f"{url}socket.io/?EIO=4&transport=polling") as response:
        assert response.status == 400


async def test_script_tags_can_not_poll(start: Start, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{(await start()).url}socket.io/?EIO=4&transport=polling&j=0") as response:
        assert response.status == 400


async def test_client_files_are_served_as_modules_and_nothing_else_is(
    start: Start, http: aiohttp.ClientSession
) -> None:
    url = (await start()).url
    for name in ("cdc-counter.js", "socket.io.esm.min.js"):
        async with http.get(f"{url}client/{name}") as response:
            assert response.status == 200
            assert response.content_type == "text/javascript"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
    for name in ("..%2Fserver.py", "%2Fetc%2Fpasswd", "x"):
        assert (await get(http, f"{url}client/{name}"))[0] == 404


async def test_websocket_is_never_compressed(script: Script, start: Start, http: aiohttp.ClientSession) -> None:
    url = f"{(await start()).url}socket.io/?EIO=4&transport=websocket"
    async with http.ws_connect(url, compress=15) as websocket:
        assert websocket.compress == 0
        await websocket.receive_str()
        await websocket.send_str("40")
        assert (await websocket.receive_str()).startswith("40")
        await websocket.send_str('420["subscribe",{"counter":"total"}]')
        assert (await websocket.receive_str()).startswith("430")
        script.change("total", "-", {"-": 1})
        assert (await websocket.receive_str()).startswith('42["tally"')
