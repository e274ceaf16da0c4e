"""The other end of the clients' pipe: starts their process, follows their progress, reads what they noted."""

import json
import mmap
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.crowd.plan import Plan
from benchmarks.pipes import Program


@dataclass(frozen=True, slots=True)
class Seen:
    """One client saw a value, and with it all values below that it had not seen yet. Monotonic nanoseconds."""

    client: int
    value: int
    at: int


class Crowd:
    """A process of clients. A context manager; its clients are connected once it is entered."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._notes = folder / f"crowd-{plan.port}.notes"
        progress = folder / f"crowd-{plan.port}.progress"
        progress.write_bytes(bytes(16))
        with progress.open("r+b") as file:
            self._progress = memoryview(mmap.mmap(file.fileno(), 16)).cast("q")
        # In a file: the rooms of thousands of clients are too long for an argument.
        told = folder / f"crowd-{plan.port}.plan"
        told.write_text(replace(plan, progress=str(progress)).to_json(), encoding="utf-8")
        self._program = Program.module("benchmarks.crowd", str(told))
        self.count = len(plan.rooms)

    def __enter__(self) -> Self:
        self._program.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._program.end()

    @property
    def values(self) -> int:
        """The sum over all clients of how far the last value that each has seen is beyond `base`."""
        return self._progress[0]

    @property
    def events(self) -> int:
        """How many events have arrived since `begin`."""
        return self._progress[1]

    def begin(self, base: int = 0, *, whole: bool = False) -> None:
        """Forget what was noted so far; everybody has seen the value `base`. `whole` keeps every event as it came."""
        self._program.ask(f"begin {base}{' whole' if whole else ''}")

    def end(self) -> float:
        """Have everything written; return the seconds of CPU that the clients used since `begin`."""
        return float(self._program.ask(f"end {self._notes}"))

    def seen(self) -> list[Seen]:
        """Return what each client saw between `begin` and `end`."""
        numbers = array("q", self._notes.read_bytes())
        return [Seen(*numbers[at : at + 3]) for at in range(0, len(numbers), 3)]

    def whole(self) -> list[tuple[int, int, list[Any]]]:
        """Return every event between `begin` and `end`, kept whole: client, time, name and body."""
        noted = json.loads(self._notes.read_text(encoding="utf-8"))
        return [(client, at, json.loads(event[2:])) for client, at, event in noted]
