"""The `cdc-counter` command as a process of its own: run it, wait for it, kill it, read its log."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.rig.eventually import eventually_sync
from tests.rig.warm import WARM, WarmProcess

PROGRAM = str(Path(sys.executable).with_name("cdc-counter"))
"""As installed beside the interpreter that runs the tests."""


def command(
    *words: str,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 300.0,
    program: Sequence[str] = (PROGRAM,),
) -> subprocess.CompletedProcess[str]:
    """Run one `cdc-counter` command to its end."""
    options = [] if config is None else ["--config", str(config)]
    run = [*program, *words, *options]
    if program[0] == WARM:
        return _warm_command(run, {**os.environ, **(environment or {})}, timeout)
    return subprocess.run(
        run,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )


def _warm_command(words: list[str], environment: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        process = WarmProcess(words, output, errors, environment)
        try:
            code = process.wait(timeout)
        finally:
            process.send_signal(signal.SIGKILL)
        told = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (output, errors)]
        return subprocess.CompletedProcess(words, code, *told)


class Daemon:
    """`cdc-counter run` (or another command that stays). A context manager: killed at the end if it still runs."""

    def __init__(
        self,
        config: Path,
        log: Path,
        *,
        port: int | None = None,
        words: Sequence[str] = ("run",),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (PROGRAM,),
    ) -> None:
        self._program = program
        self.config = config
        self.log = log
        self.port = port
        self._words = words
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | WarmProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes] | WarmProcess:
        """The process; an AssertionError before the first start."""
        assert self._process is not None, "the daemon was never started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it; its output is appended to `log`."""
        assert not self.running, "the daemon runs already"
        run = [*self._program, *self._words, "--config", str(self.config)]
        if self._program[0] == WARM:
            self._process = WarmProcess(run, self.log, self.log, self._environment)
            return self
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                run,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
        return self

    def wait_ready(self, deadline: float = 30.0) -> Self:
        """Wait until /readyz says so; fails with the log's end when the daemon ends first."""
        eventually_sync(self._ready_or_ended, "/readyz answers 200", deadline=deadline)
        return self

    def terminate(self, deadline: float = 120.0) -> int:
        """Send SIGTERM, wait, return the exit code."""
        self.process.terminate()
        return self.process.wait(deadline)

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        if self.running:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def freeze(self) -> None:
        """Send SIGSTOP: everything of it stands still, its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def log_text(self) -> str:
        """Return everything it has written."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def _ready_or_ended(self) -> bool:
        assert self.running, f"the daemon ended with {self.process.returncode}: {self.log_text()[-3000:]}"
        url = f"http://127.0.0.1:{self.port}/readyz"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
        return False
