"""What the gateway needs from wherever the tallies are kept. Implemented over Redis by `cdc_counter.tallies`.

The gateway never asks for the same thing twice in a row: it keeps every open room's values itself and reads again only
after a Reset, a Gap or when a room is opened.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from cdc_counter.core.reading import CounterInfo, FeedEntry, Reading
from cdc_counter.core.status import StreamStatus


class TallySource(Protocol):
    """Counters, readings, the feed and the consumer's report. Every method may raise UnreachableError."""

    async def counter(self, name: str) -> CounterInfo | None:
        """Return what is known of a counter, None when there is none of that name; may be cached."""
        ...

    async def read(self, counter: str, scope: str) -> Reading:
        """Return values, version, state and feed sequence of one scope at one moment; raises UnknownCounterError."""
        ...

    def follow(self) -> AsyncIterator[list[FeedEntry]]:
        """Yield entries in sequence order, from now on and for ever; a Gap wherever some may be missing.

        Something, be it an empty list, is yielded as soon as the starting point is fixed: whatever was read before
        that is read again, whatever is read after it can't miss an entry.
        """
        ...

    async def status(self) -> StreamStatus | None:
        """Return the consumer's last report, None when there is none."""
        ...
