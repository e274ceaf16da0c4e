"""Counts again: `python -m benchmarks.latency.observers.recounting DSN TABLE HOW`, `polling` or `notified`.

Polling asks for all rooms every 100 ms, as one query for everybody; notified asks for the rooms that were named.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import psycopg

from benchmarks.latency.observers.obeying import STEP_SECONDS, Observer, obey
from benchmarks.latency.sightings import Sighting

_EVERY_SECONDS: Final = 0.1
CHANNEL: Final = "rooms"


class Polling:
    """A screen that asks again and again."""

    def __init__(self, connection: psycopg.Connection, table: str) -> None:
        self._connection = connection
        self._query = f"SELECT room, count(*) FROM {table} GROUP BY room".encode()
        self._noted: list[Sighting] = []
        self._next = 0.0

    def begin(self) -> None:
        """Begin."""
        self._noted = []
        self._next = time.monotonic()

    def step(self) -> None:
        """Wait until it is time, and ask."""
        pause = self._next - time.monotonic()
        if pause > STEP_SECONDS:
            time.sleep(STEP_SECONDS)
            return
        time.sleep(max(0.0, pause))
        self._next = max(self._next + _EVERY_SECONDS, time.monotonic())
        rows = self._connection.execute(self._query).fetchall()
        at = time.monotonic_ns()
        self._noted += [Sighting(room, count, at) for room, count in rows]

    def end(self) -> Sequence[Sighting]:
        """Return what was seen."""
        return self._noted


class Notified:
    """A server that counts the rooms it hears of."""

    def __init__(self, connection: psycopg.Connection, table: str) -> None:
        self._connection = connection
        self._query = f"SELECT room, count(*) FROM {table} WHERE room = ANY(%s) GROUP BY room".encode()
        self._noted: list[Sighting] = []
        self._connection.execute(f"LISTEN {CHANNEL}".encode())

    def begin(self) -> None:
        """Begin."""
        self._noted = []

    def step(self) -> None:
        """Wait until something is named, then ask for all that was named meanwhile, at once."""
        rooms = {int(notify.payload) for notify in self._connection.notifies(timeout=STEP_SECONDS, stop_after=1)}
        if not rooms:
            return
        rows = self._connection.execute(self._query, [list(rooms)]).fetchall()
        at = time.monotonic_ns()
        self._noted += [Sighting(room, count, at) for room, count in rows]

    def end(self) -> Sequence[Sighting]:
        """Return what was seen."""
        return self._noted


_HOW: Final[Mapping[str, Callable[[psycopg.Connection, str], Observer]]] = {"polling": Polling, "notified": Notified}

if __name__ == "__main__":
    obey(_HOW[sys.argv[3]](psycopg.connect(sys.argv[1], autocommit=True), sys.argv[2]))
