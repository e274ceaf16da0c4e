"""What the observers have in common: `begin`, `end FILE`, and a step in between, for as long as the pipe is open."""

import json
import select
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from benchmarks.latency.sightings import Sighting

STEP_SECONDS: Final = 0.05
"""How long a step may wait for something to happen."""


class Observer(Protocol):
    """Somebody who waits for commits."""

    def begin(self) -> None:
        """Be ready to see what is committed from now on."""

    def step(self) -> None:
        """Wait a moment and note raw what came: whatever takes time is left for `sightings`."""

    def end(self) -> Iterable[Sighting]:
        """Return what was seen since `begin`."""


def obey(observer: Observer) -> None:
    """Do as one is told."""
    _say("ready")
    watching = False
    while True:
        if watching:
            observer.step()
        if select.select([sys.stdin], [], [], 0 if watching else None)[0]:
            match sys.stdin.readline().split():
                case ["begin"]:
                    observer.begin()
                    watching = True
                    _say("begun")
                case ["end", file]:
                    Path(file).write_text(json.dumps(list(observer.end())), encoding="utf-8")
                    watching = False
                    _say("ended")
                case _:
                    return


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()
