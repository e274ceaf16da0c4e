"""Sees what Redis holds: `python -m benchmarks.latency.observers.feed PORT COUNTER` waits on the feed."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import redis

from benchmarks.latency.observers.obeying import STEP_SECONDS, obey
from benchmarks.latency.sightings import Sighting
from cdc_counter.tallies.keys import Keys


class Feed:
    """One connection that blocks on the stream."""

    def __init__(self, port: int, counter: str) -> None:
        self._client = redis.Redis(port=port, protocol=2)
        self._key = Keys("cdc").feed
        self._counter = counter
        self._last = "$"
        self._noted: list[tuple[int, list[Any]]] = []

    def begin(self) -> None:
        """Start at the end."""
        newest: Any = self._client.xrevrange(self._key, count=1)
        self._last = newest[0][0].decode() if newest else "0"
        self._noted.clear()

    def step(self) -> None:
        """Wait for entries."""
        reply: Any = self._client.xread({self._key: self._last}, block=int(1000 * STEP_SECONDS))
        if reply:
            entries = reply[0][1]
            self._noted.append((time.monotonic_ns(), entries))
            self._last = entries[-1][0].decode()

    def end(self) -> Iterator[Sighting]:
        """Read the entries' groups: counter, scope, and buckets with their values in turn."""
        for at, entries in self._noted:
            for _, fields in entries:
                for counter, scope, flat in json.loads(fields[b"changes"])[1] if b"changes" in fields else ():
                    if counter == self._counter:
                        yield Sighting(int(scope), int(flat[1]), at)


if __name__ == "__main__":
    obey(Feed(int(sys.argv[1]), sys.argv[2]))
