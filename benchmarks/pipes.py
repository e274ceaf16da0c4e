"""Programs of the benchmark that obey one line at a time and answer with one, each in a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Program:
    """A process with a pipe to it and one from it. A context manager: it has said its first line once it is entered."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self.greeting = ""

    @classmethod
    def module(cls, name: str, *arguments: str) -> Self:
        """Return one of our own modules, to be run by this interpreter."""
        return cls([sys.executable, "-m", name, *arguments])

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        try:
            self.greeting = self.answer()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Write one line."""
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Read one line; raises RuntimeError when it has ended instead."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{' '.join(self._command[:3])} ended with {self._process.wait(10)}")
        return line

    def ask(self, line: str) -> str:
        """Write one line and read one."""
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.communicate()
