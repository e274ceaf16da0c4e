"""Sees what HTTP shows: `python -m benchmarks.latency.observers.http PORT COUNTER SOCKET`.

It is told of some commits as they return, on a socket, and reads that room until it shows them.
"""

import json
import socket
import sys
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from typing import Final

from benchmarks.latency.observers.obeying import STEP_SECONDS, obey
from benchmarks.latency.sightings import Sighting

_PATIENCE_SECONDS: Final = 5.0


class Reader:
    """One client of the HTTP interface, its connection kept open."""

    def __init__(self, port: int, counter: str, path: str) -> None:
        self._http = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
        self._counter = counter
        self._probes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._probes.bind(path)
        self._noted: list[Sighting] = []

    def begin(self) -> None:
        """Forget probes that came too late."""
        self._probes.setblocking(False)
        try:
            while True:
                self._probes.recv(64)
        except BlockingIOError:
            pass
        self._probes.settimeout(STEP_SECONDS)
        self._noted.clear()

    def step(self) -> None:
        """Wait for a commit, then for its number."""
        try:
            room, number = map(int, self._probes.recv(64).split())
        except TimeoutError:
            return
        late = time.monotonic() + _PATIENCE_SECONDS
        while self._read(room) < number:
            if time.monotonic() > late:
                return
        # The number asked for, not the one found: this is the commit that was waited for.
        self._noted.append(Sighting(room, number, time.monotonic_ns()))

    def end(self) -> Sequence[Sighting]:
        """Return what was seen."""
        return self._noted

    def _read(self, room: int) -> int:
        self._http.request("GET", f"/v1/counters/{self._counter}/{room}")
        values = json.loads(self._http.getresponse().read())["values"]
        return int(values.get("-", 0))


if __name__ == "__main__":
    obey(Reader(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
