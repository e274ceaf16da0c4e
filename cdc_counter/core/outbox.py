"""One outbox row: the packed deltas of one trigger firing, as the capture functions write them.

A compact JSON array of entries: `[counter_id, "scope", "bucket", delta]`, or `[counter_id, "SQLSTATE", "message"]`
where the deltas of one counter could not be computed (the write passed, the counter can't be trusted), with RETIRED
where there will be no more of them. No entries: a heartbeat.

A firing that can't get into the outbox writes a notice of loss as a logical message into the WAL: the SQLSTATE and the
ids of its counters, `55P03 1,4,7`. Anybody may write such messages, in any encoding and of any size.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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

_DELTA_FIELDS: Final = 4
_BROKEN_FIELDS: Final = 3

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
        for entry in _entries(text):
            if len(entry) == _DELTA_FIELDS:
                counter, scope, bucket, delta = entry
                if not (type(counter) is type(delta) is int and type(scope) is type(bucket) is str):
                    raise ProtocolError(f"outbox entry {entry!r} is not [id, scope, bucket, delta]")
                self.entries += 1
                self._add(counter, scope, bucket, delta)
            elif len(entry) == _BROKEN_FIELDS and type(entry[0]) is int:
                self._break((entry[0],), f"{entry[1]}: {entry[2]}")
            else:
                raise ProtocolError(f"outbox entry {entry!r} has {len(entry)} fields")

    def add_loss(self, loss: Loss) -> None:
        """Note counters whose deltas did not come."""
        # Never starts as RETIRED does, whatever somebody has put in the place of an SQLSTATE.
        self._break(loss.counters, f"the outbox could not be written ({loss.sqlstate})")

    def add(self, other: "Fold") -> None:
        """Add another fold's deltas to this one; the other is left as it was."""
        for (counter, scope), buckets in other.deltas.items():
            for bucket, delta in buckets.items():
                self._add(counter, scope, bucket, delta)
        self.entries += other.entries
        for counter, reason in other.broken.items():
            self._break((counter,), reason)

    def _break(self, counters: Iterable[int], reason: str) -> None:
        for counter in counters:
            self.broken.setdefault(counter, reason)

    def _add(self, counter: int, scope: str, bucket: str, delta: int) -> None:
        buckets = self.deltas.get((counter, scope))
        if buckets is None:
            self.deltas[counter, scope] = {bucket: delta}
            self.keys += 1
        elif bucket in buckets:
            buckets[bucket] += delta
        else:
            buckets[bucket] = delta
            self.keys += 1


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


def _entries(text: bytes) -> list[list[Any]]:
    try:
        entries = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"outbox row is not JSON: {text[:80]!r}: {error}") from error
    if type(entries) is not list or not all(type(entry) is list for entry in entries):
        raise ProtocolError(f"outbox row is not an array of arrays: {text[:80]!r}")
    # orjson turns integers beyond 64 bits into floats; the standard library keeps them exact.
    if any(type(entry[-1]) is float for entry in entries if entry):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"outbox row is not JSON: {text[:80]!r}: {error}") from error
    return entries  # type: ignore[no-any-return]  # checked above
