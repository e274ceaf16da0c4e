"""The fault proxy on an event loop of its own, for tests that wait without one."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from cdc_counter.soak.proxy import FaultProxy


class Link:
    """A proxy that runs in another thread. Each method has taken effect when it returns."""

    def __init__(self, proxy: FaultProxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop
        self.port = proxy.port

    def cut_after(self, count: int, direction: Literal["to", "from"]) -> None:
        """Let exactly `count` more bytes of this direction through, then end it."""
        self._in_loop(lambda: self._proxy.cut_after(count, direction))

    def was_cut(self, direction: Literal["to", "from"]) -> bool:
        """Say whether the last `cut_after` of this direction has happened."""
        return self._proxy._flows[direction].cut_after is None

    def hold(self) -> None:
        """Keep every byte back; connections stay open."""
        self._in_loop(self._proxy.hold)

    def release(self) -> None:
        """Let held bytes go on."""
        self._in_loop(self._proxy.release)

    def delay(self, seconds: float) -> None:
        """Pass each chunk on only after `seconds`, either way."""
        self._in_loop(lambda: self._proxy.delay(seconds))

    def black_hole(self) -> None:
        """Read every byte and throw it away; connections stay open, and are useless from here on."""
        self._in_loop(self._proxy.black_hole)

    def switch(self, port: int) -> None:
        """Send everybody to another server on loopback: open connections are cut."""
        self._in_loop(lambda: self._proxy.switch(port))
        self._in_loop(self._proxy.cut)

    def pass_on(self) -> None:
        """Undo every fault."""
        self._in_loop(self._proxy.pass_on)

    def _in_loop(self, act: Callable[[], None]) -> None:
        async def call() -> None:
            act()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)


@contextmanager
def fault_link(upstream_port: int, *, only: bytes = b"") -> Iterator[Link]:
    """Open a link to a server on loopback; see FaultProxy for `only`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = FaultProxy(upstream_port, only=only)
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        yield Link(proxy, loop)
    finally:
        asyncio.run_coroutine_threadsafe(_end(proxy), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(proxy: FaultProxy) -> None:
    await proxy.__aexit__(None, None, None)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        # They end by themselves, for their connections are cut; cancelled earlier they would be reported.
        await asyncio.wait(others, timeout=5)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
