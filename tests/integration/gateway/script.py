"""A TallySource that a test writes the story of: changes, resets, outages, readings held back.

It stands for our own protocol, not for Redis: the whole path with real servers is the acceptance tests' part.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import (
    Change,
    CounterInfo,
    CounterState,
    FeedEntry,
    Gap,
    Reading,
    Reset,
    UnknownCounterError,
)
from cdc_counter.core.status import Phase, StreamStatus
from cdc_counter.errors import UnreachableError


class Script:
    """Counters `open_by_channel` (scoped) and `total` (without scopes) to begin with."""

    def __init__(self) -> None:
        self.counters = {
            "open_by_channel": CounterInfo("open_by_channel", scoped=True, state=CounterState.LIVE),
            "total": CounterInfo("total", scoped=False, state=CounterState.LIVE, scale=2),
        }
        self.tallies: dict[tuple[str, str], dict[str, int]] = {}
        self.version = Lsn(0x1000)
        self.sequence = 0
        self.epoch = "e1"
        self.down = False
        self.reads = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.report: StreamStatus | None = status()
        self._followers: set[asyncio.Queue[list[FeedEntry] | None]] = set()

    def change(self, counter: str, scope: str, values: Mapping[str, int]) -> Lsn:
        """Commit new absolute values; return their position."""
        self.version = Lsn(self.version + 16)
        tallies = self.tallies.setdefault((counter, scope), {})
        tallies.update(values)
        for bucket in [bucket for bucket, value in tallies.items() if not value]:
            del tallies[bucket]
        self.publish(Change(self._next(), counter, scope, dict(values), self.version))
        return self.version

    def pass_by(self) -> Lsn:
        """Move the watermark without a change to anything counted."""
        self.version = Lsn(self.version + 16)
        return self.version

    def reset(self, counter: str | None = None) -> None:
        self.publish(Reset(self._next(), counter))

    def gap(self) -> None:
        self.publish(Gap(self.sequence))

    def lose_feed(self) -> None:
        """End every follower; what is published from now on reaches only those that follow again."""
        for queue in self._followers:
            queue.put_nowait(None)
        self._followers.clear()

    def publish(self, *entries: FeedEntry) -> None:
        for queue in self._followers:
            queue.put_nowait(list(entries))

    async def counter(self, name: str) -> CounterInfo | None:
        self._answer()
        return self.counters.get(name)

    async def read(self, counter: str, scope: str) -> Reading:
        self.reads += 1
        info, epoch, sequence = self.counters.get(counter), self.epoch, self.sequence
        values, version = dict(self.tallies.get((counter, scope), {})), self.version
        # Held between the moment it is true for and the moment it arrives: that is where the races are.
        await self.may_read.wait()
        self._answer()
        if info is None:
            raise UnknownCounterError(f"there is no counter {counter!r}")
        return Reading(counter, scope, values, version, epoch, info.state, sequence, info.scale, scoped=info.scoped)

    async def follow(self) -> AsyncIterator[list[FeedEntry]]:
        queue: asyncio.Queue[list[FeedEntry] | None] = asyncio.Queue()
        self._followers.add(queue)
        yield []
        while (entries := await queue.get()) is not None:
            yield entries
        raise UnreachableError("the script says that the feed is lost")

    async def status(self) -> StreamStatus | None:
        self._answer()
        return self.report

    def _answer(self) -> None:
        if self.down:
            raise UnreachableError("the script says that redis is away")

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence


def status(**changed: object) -> StreamStatus:
    """Return a healthy report of a consumer in this process."""
    now = time.time()
    fields: dict[str, object] = {
        "pid": os.getpid(), "host": socket.gethostname(), "started_at": now, "reported_at": now,
        "phase": Phase.STREAMING, "detail": "", "slot": "s", "epoch": "e1", "received": "0/0", "applied": "0/0",
        "confirmed": "0/0", "lag": 0.0, "backlog": 0, "retained_wal": 0, "wal_status": "reserved", "transactions": 0,
        "deltas": 0, "cycle_seconds": 0.0, "progress_age": 0.0,
    }  # fmt: skip
    return StreamStatus.from_json(fields | changed)
