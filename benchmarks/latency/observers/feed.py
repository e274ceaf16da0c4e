"""Sees what Redis holds: `python -m benchmarks.latency.observers.feed PORT COUNTER` waits on the feed.

Redis tells of a change as soon as it holds it. The time is noted when that arrives, before anything is made of it: a
client library would take as long for its reply as Redis for the whole script.
"""

import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from hiredis import Reader, pack_command

from benchmarks.latency.observers.obeying import STEP_SECONDS, obey
from benchmarks.latency.sightings import Sighting
from cdc_counter.tallies.keys import Keys

_READ: Final = 65_536


class Feed:
    """One connection with one read of the stream that waits, as soon as it has begun."""

    def __init__(self, port: int, counter: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = Reader()
        self._key = Keys("cdc").feed
        self._counter = counter
        self._waiting = False
        self._noted: list[tuple[int, list[Any]]] = []

    def begin(self) -> None:
        """Wait for what comes from now on; what has come since the last turn is not noted."""
        if not self._waiting:
            self._wait("$")
        self.step()
        self._noted.clear()

    def step(self) -> None:
        """Wait for entries."""
        if not select.select([self._socket], [], [], STEP_SECONDS)[0]:
            return
        data, at = self._socket.recv(_READ), time.monotonic_ns()
        self._replies.feed(data)
        while (reply := self._replies.gets()) is False:
            self._replies.feed(self._socket.recv(_READ))
        if isinstance(reply, Exception):
            raise reply
        entries = reply[0][1]
        self._noted.append((at, entries))
        self._wait(entries[-1][0])

    def end(self) -> Iterator[Sighting]:
        """Read the entries' groups: counter, scope, and buckets with their values in turn."""
        for at, entries in self._noted:
            for _, flat in entries:
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                for counter, scope, values in json.loads(fields[b"changes"])[1] if b"changes" in fields else ():
                    if counter == self._counter:
                        yield Sighting(int(scope), int(values[1]), at)

    def _wait(self, after: str | bytes) -> None:
        command = ("XREAD", "BLOCK", 0, "STREAMS", self._key, after)
        self._socket.sendall(pack_command(command))  # type: ignore[arg-type]  # annotated as a tuple of one
        self._waiting = True


if __name__ == "__main__":
    obey(Feed(int(sys.argv[1]), sys.argv[2]))
