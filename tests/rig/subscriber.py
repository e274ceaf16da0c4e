"""A client of the gateway for tests without an event loop: it subscribes to one room, and comes back by itself."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import socketio


@contextmanager
def subscribed(port: int, counter: str) -> Iterator[None]:
    """Keep a subscription to a counter without scopes for the duration of a block, whoever answers on this port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    client = asyncio.run_coroutine_threadsafe(_connected(f"http://127.0.0.1:{port}", counter), loop).result(30)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(client.shutdown(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _connected(url: str, counter: str) -> Any:
    client: Any = socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=0.5)

    async def subscribe() -> None:
        await client.emit("subscribe", {"counter": counter})

    client.on("connect", subscribe)
    await client.connect(url, transports=["websocket"])
    return client
