"""Keeps the demo's daemon running: started, waited for, started again whenever it was killed."""

import asyncio
import contextlib
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cdc_counter.config import Config
from cdc_counter.embedded.child import Child, spawn
from cdc_counter.errors import NotReadyError

_READY_SECONDS = 60.0
_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_ENDURANCE_SECONDS = 5.0
"""A daemon that ends by itself sooner than this after its start will not do better the next time."""


class Daemon:
    """The daemon as a child process. Its output goes to `log`."""

    def __init__(self, config: Config, log: Path) -> None:
        self._config = config
        self._log = log
        self._child: Child | None = None

    def start(self) -> Child:
        """Start it; it ends with this process, whatever ends that."""
        self._child = spawn(
            [sys.executable, "-m", "cdc_counter.demo.daemon", self._config.path],
            log=self._log,
            owner_gone=signal.SIGTERM,
            user=None,
            remove=[self._log.parent],
        )
        return self._child

    async def started(self) -> None:
        """Start it and wait until it reports progress; raises NotReadyError."""
        child = self.start()
        deadline = time.monotonic() + _READY_SECONDS
        while not await asyncio.to_thread(self._answers):
            if not child.running or time.monotonic() > deadline:
                raise NotReadyError(
                    f"the daemon is not ready: {child.log_end()}",
                    hint="try again; report it with the lines above if it happens again",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def keep_running(self, say: Callable[[str], None]) -> NoReturn:
        """Start it again whenever it ends, until cancelled; raises NotReadyError when that is in vain."""
        since = time.monotonic()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if self._child is None or self._child.running:
                continue
            killed = self._child.exit_code == 128 + signal.SIGKILL
            if not killed and time.monotonic() - since < _ENDURANCE_SECONDS:
                raise NotReadyError(
                    f"the daemon ended: {self._child.log_end()}",
                    hint="try again; report it with the lines above if it happens again",
                )
            say(f"The daemon (pid {self._child.pid}) {'was killed' if killed else 'ended'}. It is started again.")
            self.start()
            since = time.monotonic()

    def end(self) -> None:
        """Ask it to drain and end; insist after a while."""
        if self._child is None:
            return
        self._child.signal(signal.SIGTERM)
        if not self._child.wait(_GRACE_SECONDS):
            self._child.signal(signal.SIGKILL)
        self._child.release()

    def _answers(self) -> bool:
        url = f"http://127.0.0.1:{self._config.gateway.port}/readyz"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004  HTTP's OK
        return False
