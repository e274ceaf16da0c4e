"""One server process under its guard: start it, signal it, wait until it is gone.

Knows nothing of PostgreSQL or Redis. What a server is and when it is ready is for the modules beside this
one.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc_counter.errors import NotReadyError

_GUARD = Path(__file__).with_name("guard.py")
_LOG_LINES = 8
_LOG_HINT = "correct what the end of its log, above, complains of"


@dataclass(frozen=True, slots=True)
class OsUser:
    """The operating-system user a server runs as."""

    uid: int
    gid: int


class Child:
    """A running server. Made by `spawn`."""

    def __init__(self, guard: subprocess.Popen[bytes], pid: int, log: Path) -> None:
        self._guard = guard
        self.pid = pid
        self.log = log

    @property
    def running(self) -> bool:
        """Whether the server has not ended yet."""
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, 128 + N for signal N; None while it runs."""
        return self._guard.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server; one that has ended already is left alone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float) -> bool:
        """Return whether the server ended within `timeout` seconds."""
        try:
            self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_until(self, ready: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait until `ready()`; raises NotReadyError with the log's end when the server ends or is late."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise NotReadyError(f"{what} did not start: {self.log_end()}", hint=_LOG_HINT)
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"{what} did not answer within {timeout:.0f} s: {self.log_end()}",
                    hint=f"read {self.log}",
                )
            time.sleep(0.01)

    def release(self) -> None:
        """Let go of the guard after the server has ended."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard.wait()

    def log_end(self) -> str:
        """Return the last lines of its output, on one line."""
        return " | ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    owner_gone: signal.Signals,
    user: OsUser | None,
    remove: Sequence[Path],
) -> Child:
    """Start a server under a guard, its output appended to `log`.

    When this process ends, however it ends, the server gets the signal `owner_gone` and the folders
    `remove` go.
    """
    job = {
        "command": [str(word) for word in command],
        "user": None if user is None else [user.uid, user.gid],
        "signal": int(owner_gone),
        "remove": [str(folder) for folder in remove],
    }
    with log.open("ab") as output:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            # A Ctrl-C in the terminal is for the owner, who stops the servers in its own order.
            start_new_session=True,
            # No folder of the caller is held busy, and the server's user need not be able to enter it.
            cwd="/",
        )
    if guard.stdout is None:  # pragma: no cover  PIPE was asked for
        raise AssertionError
    with guard.stdout as line:
        pid = line.readline()
    if not pid:
        raise NotReadyError(f"{command[0]} could not be started under a guard", hint=f"read {log}")
    return Child(guard, int(pid), log)


def free_port() -> int:
    """Return a loopback port that is free now, below the kernel's ephemeral range.

    There no outgoing connection can take it while a server is being restarted.
    """
    for _ in range(1000):
        port = random.randint(20_000, 32_000)  # noqa: S311  a port is no secret
        with socket.socket() as probe:
            # As a server does: a connection lingering in TIME_WAIT does not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise NotReadyError("no free port between 20000 and 32000 on 127.0.0.1", hint="end programs that listen there")
