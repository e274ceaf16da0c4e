"""One outbox row: the packed deltas of one trigger firing, as the capture functions write them.

A compact JSON array of entries: `[counter_id, "scope", "bucket", delta]`, or `[counter_id, "SQLSTATE", "message"]`
where the deltas of one counter could not be computed (the write passed, the counter can't be trusted), with RETIRED
where there will be no more of them. No entries: a heartbeat.

A firing that can't get into the outbox writes a notice of loss as a logical message into the WAL: the SQLSTATE and the
ids of its counters, `55P03 1,4,7`. Anybody may write such messages, in any encoding and of any size.
"""

import json
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

import orjson

from cdc_counter.errors import ProtocolError

TallyKey = tuple[int, str]
"""(counter id, scope): one hash of tallies."""

Deltas = dict[TallyKey, dict[str, int]]
"""Per tally hash, the signed change of each bucket."""

SCOPE_COST: Final = 3
"""What one more hash costs a script call, in buckets: measured 8 microseconds beside 2.7 for a bucket."""

RETIRED: Final = "CDC01"
"""In the place of an SQLSTATE: the counter was given another id, or removed, by the transaction that says so."""

MAX_NOTICE: Final = 100_000
"""Bytes of the longest notice of loss: the ids of 9,000 counters of one table."""

_NOTICE: Final = re.compile(rb"([0-9A-Z]{5}) ([0-9]{1,10}(?:,[0-9]{1,10})*)")


@dataclass(frozen=True, slots=True)
class Loss:
    """Counters that lack what a transaction changed, for their firing could not get into the outbox."""

    counters: tuple[int, ...]
    sqlstate: str


@dataclass(slots=True)
class Fold:
    """Deltas added up, and the counters whose capture broke, with the first reason for each.

    `entries` counts what was added, `keys` the buckets it came to.
    """

    deltas: Deltas = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    entries: int = 0
    keys: int = 0

    @property
    def cost(self) -> int:
        """What applying it costs: one a bucket, SCOPE_COST more a hash, one a broken counter."""
        return self.keys + SCOPE_COST * len(self.deltas) + len(self.broken)

    def add_row(self, text: bytes) -> None:
        """Add one row's entries; raises ProtocolError and then must not be used further."""
        entries = _entries(text, orjson.loads)
        added = self._add_entries(entries)
        # orjson turns integers beyond 64 bits into floats; the standard library keeps them exact.
        if added < len(entries) and added + self._add_entries(_entries(text, json.loads)[added:]) < len(entries):
            raise ProtocolError(f"outbox row has a delta that is no integer: {text[:80]!r}")

    def _add_entries(self, entries: list[Any]) -> int:
        """Add entries up to one whose delta is a float; return how many."""
        # The hottest loop of a bulk statement: it makes no call for an entry that it can do without.
        deltas = self.deltas
        for position, entry in enumerate(entries):
            try:
                counter, scope, bucket, delta = entry
            except (TypeError, ValueError):
                self._add_broken(entry)
                continue
            if not (type(counter) is type(delta) is int and type(scope) is type(bucket) is str):
                if type(delta) is float:
                    return position
                raise ProtocolError(f"outbox entry {reprlib.repr(entry)} is not [id, scope, bucket, delta]")
            self.entries += 1
            buckets = deltas.get((counter, scope))
            if buckets is None:
                deltas[counter, scope] = {bucket: delta}
                self.keys += 1
            elif bucket in buckets:
                buckets[bucket] += delta
            else:
                buckets[bucket] = delta
                self.keys += 1
        return len(entries)

    def add_loss(self, loss: Loss) -> None:
        """Note counters whose deltas did not come."""
        # Never starts as RETIRED does, whatever somebody has put in the place of an SQLSTATE.
        self._break(loss.counters, f"the outbox could not be written ({loss.sqlstate})")

    def copy(self) -> "Fold":
        """Return one that can be added to, and leave this one as it is."""
        fold = Fold()
        fold.add(self)
        return fold

    def add(self, other: "Fold") -> None:
        """Add another fold's deltas to this one; the other is left as it was."""
        deltas = self.deltas
        for key, added in other.deltas.items():
            buckets = deltas.get(key)
            if buckets is None:
                deltas[key] = dict(added)
                self.keys += len(added)
                continue
            before = len(buckets)
            for bucket, delta in added.items():
                buckets[bucket] = buckets.get(bucket, 0) + delta
            self.keys += len(buckets) - before
        self.entries += other.entries
        for counter, reason in other.broken.items():
            self._break((counter,), reason)

    def add_rows(self, rows: Sequence["Folded"]) -> None:
        """Add what rows come to, in one loop for all of them."""
        deltas = self.deltas
        for key, bucket, delta in chain.from_iterable([row.changes for row in rows]):
            buckets = deltas.get(key)
            if buckets is None:
                deltas[key] = {bucket: delta}
                self.keys += 1
            elif bucket in buckets:
                buckets[bucket] += delta
            else:
                buckets[bucket] = delta
                self.keys += 1
        for fold in [row.fold for row in rows]:
            self.entries += fold.entries
            if fold.broken:
                for counter, reason in fold.broken.items():
                    self._break((counter,), reason)

    def _add_broken(self, entry: object) -> None:
        if type(entry) is not list or [*map(type, entry)] != [int, str, str]:
            raise ProtocolError(f"outbox entry {reprlib.repr(entry)} is neither a delta nor a reason why there is none")
        self._break((entry[0],), f"{entry[1]}: {entry[2]}")

    def _break(self, counters: Iterable[int], reason: str) -> None:
        for counter in counters:
            self.broken.setdefault(counter, reason)


class Folded(NamedTuple):
    """What one row comes to, its cost, and its deltas one by one. Rows that are alike share it: nobody adds to it."""

    fold: Fold
    cost: int
    changes: tuple[tuple[TallyKey, str, int], ...]

    @classmethod
    def of(cls, text: bytes) -> "Folded":
        """Fold one row; raises ProtocolError."""
        fold = Fold()
        fold.add_row(text)
        changes = [(key, bucket, delta) for key, buckets in fold.deltas.items() for bucket, delta in buckets.items()]
        return cls(fold, fold.cost, tuple(changes))


def outbox_prefix(namespace: str, table: str) -> str:
    """Return the prefix of the messages that a firing writes when it can't get into the outbox."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in (namespace, table))


def parse_notice(content: bytes) -> Loss | None:
    """Read a notice of loss; None when it is something else."""
    found = _NOTICE.fullmatch(content) if len(content) <= MAX_NOTICE else None
    return None if found is None else Loss(tuple(map(int, found[2].split(b","))), found[1].decode())


def without_zeros(deltas: Mapping[TallyKey, Mapping[str, int]]) -> Deltas:
    """Return the deltas that change something."""
    kept = {key: {b: d for b, d in buckets.items() if d} for key, buckets in deltas.items()}
    return {key: buckets for key, buckets in kept.items() if buckets}


def _entries(text: bytes, loads: Callable[[bytes], Any]) -> list[Any]:
    try:
        entries = loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"outbox row is not JSON: {text[:80]!r}: {error}") from error
    if type(entries) is not list:
        raise ProtocolError(f"outbox row is not an array: {text[:80]!r}")
    return entries
