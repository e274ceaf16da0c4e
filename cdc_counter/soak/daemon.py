"""The daemon under test, as a supervisor keeps it: a process of its own, started again whenever it ends."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cdc_counter.embedded.child import Child, spawn

COMMAND: Final = (sys.executable, "-m", "cdc_counter", "run")
"""What is run; `--config` and a file are added."""

_RESTART_SECONDS: Final = 0.3
_POLL_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 10.0


class Daemon:
    """`ended` counts the exit codes of ends that nobody here caused."""

    def __init__(self, config: Path, log: Path, command: Sequence[str] = COMMAND) -> None:
        self._command = (*command, "--config", str(config))
        self.log = log
        self.ended: Counter[int] = Counter()
        self.starts = 0
        self._child: Child | None = None
        self._asked = False

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._child is not None and self._child.running

    async def keep_running(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            if not self.running:
                if self._child is not None:
                    code = self._child.exit_code
                    self._child.release()
                    if not self._asked and code is not None:
                        self.ended[code] += 1
                    self._asked = False
                    await asyncio.sleep(_RESTART_SECONDS)
                self._child = await asyncio.to_thread(self._spawn)
                self.starts += 1
            await asyncio.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to drain and end."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Send SIGSTOP: its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    async def close(self) -> None:
        """End it for good; call after `keep_running` was cancelled."""
        if self._child is None:
            return
        self.thaw()
        self.terminate()
        if not await asyncio.to_thread(self._child.wait, _GRACE_SECONDS):
            self.kill()
        await asyncio.to_thread(self._child.release)

    def log_end(self, lines: int = 12) -> str:
        """Return the last lines of what it has written."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _end(self, number: signal.Signals) -> None:
        self._asked = True
        self._signal(number)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.signal(number)

    def _spawn(self) -> Child:
        return spawn(self._command, log=self.log, owner_gone=signal.SIGKILL, user=None, remove=[self.log.parent])
