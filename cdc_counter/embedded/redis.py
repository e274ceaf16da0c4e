"""A Redis server as a child process: start, stop, crash, start again.

Synchronous and without a client library.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from cdc_counter.embedded.binaries import redis_server
from cdc_counter.embedded.child import Child, free_port, spawn
from cdc_counter.errors import NotReadyError

DEFAULT_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
)
_START_SECONDS = 60.0
"""Reading the append-only file back is part of a start."""

_ASK_AGAIN_SECONDS = 1.0


class RedisServer:
    """A Redis of our own on 127.0.0.1, with an append-only file as in production.

    Without `data_dir` the data is temporary and `close` removes it. `port` 0 picks a free one, kept over
    restarts. As a context manager it is started and closed.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int = 0,
        *,
        program: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.program = program or redis_server()
        self.port = port or free_port()
        self.settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self.folder = Path(tempfile.mkdtemp(prefix="cdc-counter-redis-"))
        self.data_dir = self.folder / "data" if data_dir is None else data_dir.resolve()
        self.log = self.folder / "redis.log"
        self._child: Child | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The server's process id; raises NotReadyError while it is stopped."""
        if self._child is None:
            raise NotReadyError(f"Redis in {self.data_dir} is stopped", hint="start it first")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._child is not None and self._child.running

    @property
    def version(self) -> tuple[int, int, int]:
        """Such as (6, 2, 14)."""
        answer = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True)
        number = next(word for word in answer.stdout.split() if word.startswith("v="))
        major, minor, patch = number.removeprefix("v=").split(".")[:3]
        return int(major), int(minor), int(patch)

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it has loaded its data and answers."""
        if self.running:
            return
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A setting of several words, such as replicaof, is several arguments; an empty one is an empty argument.
        options = [word for name, value in self.settings.items() for word in (f"--{name}", *(value.split() or [""]))]
        options += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.data_dir), "--daemonize", "no"]
        self._child = spawn(
            [self.program, *options], log=self.log, owner_gone=signal.SIGTERM, user=None, remove=[self.folder]
        )
        self._child.wait_until(self._answers, _START_SECONDS, f"Redis on port {self.port}")

    def stop(self, timeout: float = 30.0) -> None:
        """Shut down, the append-only file flushed; the data stays. Raises NotReadyError when it stays up."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """Crash it with SIGKILL."""
        self._end(signal.SIGKILL, timeout=30.0)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server and remove everything temporary."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals, timeout: float) -> None:
        if self._child is None:
            return
        deadline = time.monotonic() + timeout
        self._child.signal(number)
        # Asked again: a Redis that is writing its first append-only file declines to end, once.
        while not self._child.wait(_ASK_AGAIN_SECONDS) and time.monotonic() < deadline:
            self._child.signal(number)
        if self._child.running:
            raise NotReadyError(f"Redis pid {self.pid} did not stop within {timeout:.0f} s", hint=f"read {self.log}")
        self._child.release()
        self._child = None

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
        ):
            connection.sendall(b"PING\r\n")
            # "-LOADING ..." while the append-only file is read.
            return connection.recv(64).startswith(b"+PONG")
        return False
