"""The reading side: one scope at one watermark, and the feed of changed values.

Owns reading only; it never writes. A missing watermark is never zero: without tallies there is an error, not an empty
answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from cdc_counter.core.counters import CounterRecord
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
from cdc_counter.core.status import StreamStatus
from cdc_counter.core.verification import proof_of
from cdc_counter.errors import CdcCounterError, NotReadyError, ProtocolError, UnreachableError
from cdc_counter.tallies.connection import Commands, command, translated_errors
from cdc_counter.tallies.keys import REPORT_TTL, Keys
from cdc_counter.tallies.lease import Lease, leased
from cdc_counter.tallies.line import Line
from cdc_counter.tallies.verifications import parse_verification

_BLOCK_MS: Final = 1000
"""How long one read of the feed waits; after it the feed's number is compared, to notice that tallies were lost."""

_RETRY: Final = 0.2
"""Seconds between attempts while Redis is away."""

_ENTRIES: Final = 16
"""Stream entries per read; one may hold some thousand values."""


_DAMAGED: Final = "only cdc-counter may write its keys; 'cdc-counter run' rebuilds what was damaged"


class TallyReader:
    """Reads one prefix. `blocking` is a client of its own for the feed, whose reads wait."""

    def __init__(self, client: Redis, blocking: Redis, prefix: str) -> None:
        self._client = client
        self._line = Line(client)
        self._blocking = blocking
        self._keys = Keys(prefix)

    async def counter(self, name: str) -> CounterInfo | None:
        """Return what is known of a counter; None for an unknown one. Raises UnreachableError without tallies."""
        with _legible(), translated_errors("reading a counter"):
            # At one moment, for between two a flushed Redis may have got its new epoch.
            raw, begun = await self._line.transaction(
                ("HGET", self._keys.counters, name), ("HEXISTS", self._keys.meta, "epoch")
            )
        # A Redis that was flushed knows no counter: that says nothing about which there are.
        if not begun:
            raise self._no_tallies()
        with _legible():
            return None if raw is None else CounterRecord.from_json(orjson.loads(raw)).info

    async def counters(self) -> list[CounterRecord]:
        """Return every counter's record, by name."""
        with translated_errors("reading the counters"):
            raw: dict[bytes, bytes] = await command(self._client, "HGETALL", self._keys.counters)
        with _legible():
            records = [CounterRecord.from_json(orjson.loads(value)) for value in raw.values()]
        return sorted(records, key=lambda record: record.name)

    async def read(self, counter: str, scope: str) -> Reading:
        """Return one scope's buckets with the watermark they are true for.

        Raises UnknownCounterError, and UnreachableError without tallies.
        """
        with _legible(), translated_errors("reading tallies"):
            (epoch, watermark, sequence), raw, flat, verified = await self._line.transaction(
                ("HMGET", self._keys.meta, "epoch", "watermark", "sequence"),
                ("HGET", self._keys.counters, counter),
                ("HGETALL", self._keys.tally(counter, scope)),
                ("HGET", self._keys.verified, counter),
            )
        # A Redis that was flushed knows no counter: that says nothing about which there are.
        if epoch is None or watermark is None:
            raise self._no_tallies()
        if raw is None:
            raise UnknownCounterError(f"there is no counter {counter!r}", hint="check the counter's name")
        with _legible():
            record = CounterRecord.from_json(orjson.loads(raw))
            version, number = Lsn.from_version(watermark.decode()), int(sequence or 0)
        # What is there while a counter is first seeded is nobody's number.
        shown = {} if record.state is CounterState.SEEDING else dict(zip(flat[::2], flat[1::2], strict=True))
        return Reading(
            counter=counter,
            scope=scope,
            values=self._values(counter, scope, shown),
            version=version,
            epoch=epoch.decode(),
            state=record.state,
            sequence=number,
            scale=record.info.scale,
            verified_at=proof_of(record, parse_verification(verified)),
            scoped=record.scoped,
        )

    def _no_tallies(self) -> UnreachableError:
        return UnreachableError(
            f"redis has no tallies under prefix {self._keys.prefix!r}",
            hint="check redis.url and redis.prefix, or run 'cdc-counter init'",
        )

    def _values(self, counter: str, scope: str, raw: dict[bytes, bytes]) -> dict[str, int]:
        try:
            return {bucket.decode(): int(value) for bucket, value in raw.items()}
        except ValueError as error:
            raise CdcCounterError(
                f"redis key {self._keys.tally(counter, scope)!r} holds what is no tally: {error}",
                hint="run 'cdc-counter init --reseed'; only cdc-counter may write this key",
            ) from error

    async def status(self) -> StreamStatus | None:
        """Return the consumer's last report; None when there is none.

        How old it is, Redis knows, whose clock both sides share: `reported_at` is as long ago by ours.
        """
        with translated_errors("reading the consumer's report"):
            raw, left_ms = await self._line.transaction(("GET", self._keys.status), ("PTTL", self._keys.status))
        if raw is None:
            return None
        report = StreamStatus.from_json(orjson.loads(raw))
        age = REPORT_TTL - left_ms / 1000
        return replace(report, reported_at=time.time() - age) if left_ms >= 0 else report

    async def sequence(self) -> int:
        """Return the number of the feed's last entry."""
        with translated_errors("reading the feed's number"):
            return await self._number(self._client)

    async def follow(self) -> AsyncIterator[list[FeedEntry]]:
        """Yield the feed's entries from now on, in order, for ever; a Gap stands where some were missed."""
        while True:
            try:
                # On one connection: another may lead to a server that came back older, whose numbers prove nothing
                # about what was seen.
                with translated_errors("reading the feed"):
                    async with leased(self._blocking) as lease:
                        async for entries in self._follow_on(lease):
                            yield entries
            except NotReadyError:
                raise
            except CdcCounterError:
                await asyncio.sleep(_RETRY)

    async def _follow_on(self, lease: Lease) -> AsyncIterator[list[FeedEntry]]:
        last: int | None = None
        while True:
            if last is None:
                last = await self._number(lease)
                yield [Gap(last)]
            raw = await self._read_feed(lease, last)
            if not raw:
                last = await self._unless_lost(lease, last)
                continue
            entries: list[FeedEntry] = []
            for identifier, fields in raw:
                number = int(identifier.partition(b"-")[0])
                read, first = _entries(number, dict(zip(fields[::2], fields[1::2], strict=True)))
                if first != last + 1:
                    entries.append(Gap(first - 1))
                last = number
                entries += read
            yield entries

    async def _number(self, client: Commands) -> int:
        raw: bytes | None = await command(client, "HGET", self._keys.meta, "sequence")
        with _legible():
            return int(raw or 0)

    async def _read_feed(self, lease: Lease, last: int) -> list[tuple[bytes, list[bytes]]]:
        reply: Any = await command(
            lease, "XREAD", "COUNT", _ENTRIES, "BLOCK", _BLOCK_MS, "STREAMS", self._keys.feed, f"{last}-0"
        )
        return list(reply[0][1]) if reply else []

    async def _unless_lost(self, lease: Lease, last: int) -> int | None:
        """Return `last`, or None when the feed's number says that entries were lost or started again."""
        if await self._number(lease) == last:
            return last
        # One more look: an entry may have come between the two reads.
        more = await command(lease, "XRANGE", self._keys.feed, f"{last + 1}-0", "+", "COUNT", 1)
        return last if more else None


@contextmanager
def _legible() -> Iterator[None]:
    """Take damaged keys for a server that is not there: the consumer replaces them."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ProtocolError) as error:
        raise UnreachableError(f"redis holds what is not ours: {error!r}", hint=_DAMAGED) from error
    except CdcCounterError as error:
        if "WRONGTYPE" not in str(error):
            raise
        raise UnreachableError(f"redis holds what is not ours: {error}", hint=_DAMAGED) from error


def _entries(number: int, fields: dict[bytes, bytes]) -> tuple[list[FeedEntry], int]:
    """Return what one stream entry tells, and the number of its first value; `number` is that of its last."""
    if b"changes" not in fields:
        return [Reset(number, fields.get(b"reset", b"").decode() or None)], number
    version, groups = orjson.loads(fields[b"changes"])
    lsn = Lsn.from_version(version)
    entries: list[FeedEntry] = []
    first = last = number - sum(len(flat) // 2 for _, _, flat in groups)
    for counter, scope, flat in groups:
        values = {bucket: int(value) for bucket, value in zip(flat[::2], flat[1::2], strict=True)}
        last += len(values)
        entries.append(Change(last, counter, scope, values, lsn))
    return entries, first + 1
