"""A gateway on a free port over a scripted source, and clients of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from cdc_counter.config.gateway import GatewaySettings
from cdc_counter.gateway import Gateway
from cdc_counter.metrics import Metrics
from tests.integration.gateway.client import Client
from tests.integration.gateway.raw import RawClient
from tests.integration.gateway.script import Script


@dataclass(slots=True)
class Served:
    """A running gateway and what it was given."""

    gateway: Gateway
    script: Script
    metrics: Metrics
    stop: asyncio.Event
    ended: asyncio.Task[None]

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").rstrip("/").split(":")
        return host, int(port)


@asynccontextmanager
async def serve(
    script: Script,
    *,
    handshake_seconds: float = 10.0,
    answer_seconds: float = 5.0,
    behind_seconds: float = 60.0,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Run a gateway; what it raises is raised here."""
    stop = asyncio.Event()
    metrics = Metrics()
    gateway = Gateway(
        GatewaySettings(**({"port": 0} | settings)),
        script,
        metrics,
        handshake_seconds=handshake_seconds,
        answer_seconds=answer_seconds,
        behind_seconds=behind_seconds,
    )
    async with asyncio.TaskGroup() as group:
        ended = group.create_task(gateway.run(stop))
        async with asyncio.timeout(30):
            await gateway.ready.wait()
        try:
            yield Served(gateway, script, metrics, stop, ended)
        finally:
            stop.set()


Start = Callable[..., Awaitable[Served]]
Connect = Callable[..., Awaitable[Client]]
Open = Callable[[Served], Awaitable[RawClient]]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start(script: Script, stack: AsyncExitStack) -> Start:
    async def start_one(**settings: Any) -> Served:
        return await stack.enter_async_context(serve(script, **settings))

    return start_one


@pytest.fixture
def connect(stack: AsyncExitStack) -> Connect:
    async def connect_one(url: str, **options: Any) -> Client:
        client = Client()
        stack.push_async_callback(client.close)
        await client.connect(url, **options)
        return client

    return connect_one


@pytest.fixture
async def http(stack: AsyncExitStack) -> aiohttp.ClientSession:
    return await stack.enter_async_context(aiohttp.ClientSession())


@pytest.fixture
async def open_raw() -> AsyncIterator[Open]:
    """Open bare sockets; they are closed in the end."""
    clients: list[RawClient] = []

    async def open_one(served: Served) -> RawClient:
        client = await RawClient.open(served.address)
        clients.append(client)
        return client

    yield open_one
    for client in clients:
        client.close()
