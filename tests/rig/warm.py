"""Processes of `cdc-counter` that begin as copies of one that has loaded everything: loading costs each start a second.

They are processes like any other: with a log, a pid and an exit code of their own, to be killed, frozen and waited for.
A program whose first word is WARM is started so; its second is the module to run, as after `python -m`.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

WARM: Final = "warm"

WARM_PROGRAM: Final = (WARM, "cdc_counter")
"""The command itself."""

_LOADED: Final = (
    "cdc_counter.cli", "cdc_counter.cli.changes_page", "cdc_counter.cli.progress", "cdc_counter.cli.verification_page",
    "cdc_counter.gateway", "cdc_counter.wiring.changes", "cdc_counter.wiring.daemon", "cdc_counter.wiring.installation",
    "cdc_counter.wiring.status", "cdc_counter.wiring.verification",
)  # fmt: skip
"""With what the commands themselves only load when they need it."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(_LOADED))


class WarmProcess:
    """What of `subprocess.Popen` the tests use."""

    def __init__(self, words: Sequence[str], output: Path, errors: Path, environment: Mapping[str, str]) -> None:
        given = ([*words[1:]], str(output), str(errors), dict(environment))
        # Not joined at the end of the tests: whoever started it ends it.
        self._process: BaseProcess = _context.Process(target=_run, args=given, daemon=True)
        self._words = words
        self._process.start()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None as long as nobody saw it end."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Look whether it has ended; returns the exit code then."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit code. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired([*self._words], timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)


def _run(words: list[str], output: str, errors: str, environment: dict[str, str]) -> None:
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    # The server that copies is from before: what it had written to is not ours.
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(environment)
    module, *arguments = words
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
