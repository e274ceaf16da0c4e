"""Who may see what, over Socket.IO and HTTP alike."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from socketio.exceptions import ConnectionError as RefusedConnectionError

from cdc_counter.config.gateway import GatewaySettings
from cdc_counter.errors import ConfigError
from cdc_counter.gateway import Gateway
from cdc_counter.metrics import Metrics
from tests.integration.gateway.client import Client
from tests.integration.gateway.conftest import Connect, Start
from tests.integration.gateway.script import Script

SECRET = "a secret of at least thirty-two bytes"


def token(scopes: Any, *, seconds: float = 60, secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"scopes": scopes, "exp": time.time() + seconds} | claims, secret, algorithm="HS256")


def auth(**settings: Any) -> dict[str, Any]:
    return {"auth": {"secret": SECRET} | settings}


async def test_token_opens_its_scopes_and_no_others(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start(**auth())).url, token=token(["42"]))
    assert "error" not in await client.subscribe("open_by_channel", "42")
    forbidden = await client.subscribe("open_by_channel", "43")
    unknown = await client.subscribe("nothing", "42")
    assert forbidden == unknown == {"error": "not found"}


async def test_forbidden_scope_is_told_nothing_of_later(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start(**auth())).url, token=token({"open_by_channel": [42], "*": ["-"]}))
    await client.subscribe("open_by_channel", "43")
    await client.subscribe("open_by_channel", 42)
    await client.subscribe("total")
    script.change("open_by_channel", "43", {"7": 1})
    script.change("total", "-", {"-": 1})
    assert [body["counter"] for _, body in await client.received(1)] == ["total"]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "not.a.token",
        "x" * 9000,
        token(["*"], seconds=-60),
        token(["*"], secret="another secret of thirty-two bytes"),
        token(None),
        token("*"),
        token([None]),
        jwt.encode({"scopes": ["*"]}, SECRET, algorithm="HS256"),
        jwt.encode({"scopes": ["*"], "exp": time.time() + 60}, "", algorithm="none"),
        jwt.encode({"scopes": ["*"], "exp": time.time() + 60}, SECRET * 2, algorithm="HS512"),
        token(["*"], aud="another service"),
    ],
    ids=[
        "none",
        "empty",
        "garbage",
        "long",
        "expired",
        "signature",
        "claim",
        "text",
        "null",
        "exp",
        "alg",
        "hs",
        "aud",
    ],
)
async def test_bad_token_is_refused_everywhere(bad: str | None, start: Start, http: aiohttp.ClientSession) -> None:
    served = await start(**auth())
    client = Client()
    with pytest.raises(RefusedConnectionError):
        await client.connect(served.url, token=bad)
    assert client.refusals[0]["message"] == "unauthorized"
    headers = {"Authorization": f"Bearer {bad}"} if bad is not None and len(bad) < 8000 else {}
    async with http.get(f"{served.url}v1/counters/total", headers=headers) as response:
        assert response.status == 401
        assert (await response.json())["error"] == "unauthorized"


async def test_events_before_connect_are_not_answered(start: Start, http: aiohttp.ClientSession) -> None:
    served = await start(**auth())
    async with http.ws_connect(f"{served.url}socket.io/?EIO=4&transport=websocket") as socket:
        assert (await socket.receive_str()).startswith("0")
        await socket.send_str('421["subscribe",{"counter":"total"}]')
        await socket.send_str("40" + '{"token":"bad"}')
        assert (await socket.receive_str()).startswith("44")


async def test_client_cannot_let_itself_in_by_an_event_of_that_name(
    script: Script, start: Start, connect: Connect
) -> None:
    client = await connect((await start(**auth())).url, token=token(["1"]))
    await client.socket.emit("connect", ({}, {"token": token(["*"])}))
    assert (await client.ask("connect", {}, {"token": token(["*"])}))["error"] == "invalid"
    assert (await client.ask("disconnect", "reason"))["error"] == "invalid"
    assert await client.subscribe("open_by_channel", "2") == {"error": "not found"}
    assert "error" not in await client.subscribe("open_by_channel", "1")


async def test_client_that_has_just_left_cannot_come_back_by_an_event(
    start: Start, http: aiohttp.ClientSession
) -> None:
    served = await start(**auth())
    url = f"{served.url}socket.io/?EIO=4&transport=polling"
    async with http.get(url) as response:
        session = json.loads((await response.text())[1:])["sid"]
    good = json.dumps({"token": token(["*"])})
    # In one body: the event is dispatched only after the packet behind it has been dealt with.
    for body in (f"40{good}", f'42["connect",{{}},{good}]\x1e41'):
        async with http.post(f"{url}&sid={session}", data=body) as response:
            assert response.status == 200
    async with http.get(f"{url}&sid={session}") as response:
        assert "40{" in await response.text()
    assert served.gateway._push._clients == {}


async def test_expiry_cuts_the_connection(start: Start, connect: Connect) -> None:
    served = await start(**auth(leeway_seconds=0))
    client = await connect(served.url, token=token(["*"], seconds=1.5))
    assert "error" not in await client.subscribe("total")
    async with asyncio.timeout(60):
        await client.gone.wait()


async def test_http_checks_the_same_grant(script: Script, start: Start, http: aiohttp.ClientSession) -> None:
    script.change("open_by_channel", "a/b", {"7": 3})
    served = await start(**auth())
    headers = {"Authorization": f"Bearer {token({'open_by_channel': ['a/b']})}"}
    async with http.get(f"{served.url}v1/counters/open_by_channel/a%2Fb", headers=headers) as response:
        assert (await response.json())["values"] == {"7": 3}
    bodies = set()
    for path in ("open_by_channel/42", "total", "nothing/42"):
        async with http.get(f"{served.url}v1/counters/{path}", headers=headers) as response:
            assert response.status == 404
            bodies.add(await response.read())
    assert bodies == {b'{"error":"not found"}'}


async def test_asymmetric_tokens_and_audience(start: Start, connect: Connect) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    served = await start(auth={"public_key": pem, "algorithms": ["ES256"], "audience": "desk", "issuer": "login"})
    claims = {"scopes": ["-"], "exp": time.time() + 60, "aud": "desk", "iss": "login"}
    client = await connect(served.url, token=jwt.encode(claims, key, algorithm="ES256"))
    assert "error" not in await client.subscribe("total")
    with pytest.raises(RefusedConnectionError):
        await connect(served.url, token=jwt.encode(claims | {"aud": "other"}, key, algorithm="ES256"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "desk.example"])  # noqa: S104  # never bound here
def test_open_gateway_is_refused_beyond_loopback(host: str, script: Script) -> None:
    with pytest.raises(ConfigError, match="which others can reach"):
        Gateway(GatewaySettings(host=host), script, Metrics())
    Gateway(GatewaySettings(host=host, allow_unauthenticated=True), script, Metrics())
