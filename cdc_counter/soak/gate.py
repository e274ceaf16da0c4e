"""Lets writers write, or keeps them at rest: when it is shut and everybody has noticed, nothing changes any more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Writers pass it before each transaction. It can be shut by one at a time."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._shut = asyncio.Event()
        self._idle = asyncio.Condition()
        self._inside = 0
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Wait until it is open; the block is over before it counts as shut."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            async with self._idle:
                self._idle.notify_all()

    @asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """Shut it, wait until nobody is inside, and open it again after the block."""
        async with self._alone:
            self._open.clear()
            self._shut.set()
            try:
                async with self._idle:
                    await self._idle.wait_for(lambda: self._inside == 0)
                yield
            finally:
                self._shut.clear()
                self._open.set()

    async def sleep(self, seconds: float) -> None:
        """Wait so long inside, or until somebody wants it shut."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._shut.wait()
