"""One room: the current values of one scope of one counter, and what of them has not been sent yet.

A room is opened by one reading and kept current by feed entries; whatever arrives while a reading is under way is
kept by bucket and put on top of it by sequence. Values are absolute, so only the last one of a bucket matters: a
room's memory is bounded by its buckets, however fast they change. Knows nothing of clients, sockets or time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cdc_counter.core.lsn import ZERO, Lsn
from cdc_counter.core.reading import Change, CounterState, Reading, VerifiedAt


class RoomKey(NamedTuple):
    """A room is the unit of subscription and of authorisation."""

    counter: str
    scope: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """Changes since the last flush. `sequences` tells when each bucket changed, for whoever joined in between."""

    values: Mapping[str, int]
    version: Lsn
    sequences: Mapping[str, int]
    after: int
    """What everybody who was here at the last flush has already seen."""
    through: int
    """The last of these changes."""


class Room:
    """Current values of one scope. `sequence` is the last feed entry they include."""

    __slots__ = (
        "_changed",
        "_late",
        "_late_version",
        "_remembered",
        "_sent",
        "epoch",
        "generation",
        "key",
        "ready",
        "scale",
        "sequence",
        "state",
        "values",
        "verified_at",
        "version",
    )

    def __init__(self, key: RoomKey) -> None:
        self.key = key
        self.values: dict[str, int] = {}
        self.version: Lsn = ZERO
        self.sequence = -1
        self.epoch = ""
        self.state = CounterState.STALE
        self.scale = 0
        self.verified_at: VerifiedAt | None = None
        self.ready = False
        self.generation = 0
        self._remembered = False
        self._sent = -1
        self._changed: dict[str, int] = {}
        self._late: dict[str, tuple[int, int]] = {}
        self._late_version: tuple[int, Lsn] = (-1, ZERO)

    def expect_reading(self) -> None:
        """Stop showing what is here until a reading taken after this call is installed.

        `generation` tells a reading taken before from one taken after: sequences may start anew with a new feed, so
        they can't.
        """
        self.ready = False
        self.generation += 1
        self._forget()

    def apply(self, change: Change) -> bool:
        """Take one feed entry; return whether there is now something to send."""
        if not self.ready:
            self._late.update((bucket, (change.sequence, value)) for bucket, value in change.values.items())
            self._late_version = (change.sequence, max(change.version, self._late_version[1]))
            return False
        if change.sequence <= self.sequence:
            return False
        self.sequence = change.sequence
        # Corrections reach the feed without a new commit: the version stays, it never goes down.
        self.version = max(self.version, change.version)
        for bucket, value in change.values.items():
            self._put(bucket, value)
            self._changed[bucket] = change.sequence
        return True

    def install(self, reading: Reading) -> None:
        """Replace everything by a reading, then put on top what the feed has said since it was taken.

        A new lifetime that has no number yet leaves the last known values, marked: there is nothing better.
        """
        began = reading.epoch != self.epoch and bool(self.values)
        self._remembered = reading.state is CounterState.SEEDING and (began or self._remembered)
        if self._remembered:
            self.state = CounterState.REBUILDING
        else:
            self.values = {bucket: value for bucket, value in reading.values.items() if value}
            self.state = reading.state
        self.version, self.epoch = reading.version, reading.epoch
        self.scale, self.sequence = reading.scale, reading.sequence
        self.verified_at = reading.verified_at
        for bucket, (sequence, value) in self._late.items():
            if sequence > reading.sequence:
                self._put(bucket, value)
        late_sequence, late_version = self._late_version
        if late_sequence > reading.sequence:
            self.sequence = late_sequence
            self.version = max(self.version, late_version)
        # Everybody gets the whole reading, so nothing of it is left to be sent as a change.
        self._forget()
        self._sent = self.sequence
        self.ready = True

    def take_unsent(self) -> Unsent | None:
        """Return what changed since the last call, each bucket once with its latest value; None when nothing did."""
        if not self._changed:
            return None
        sequences, self._changed = self._changed, {}
        after, self._sent = self._sent, self.sequence
        values = {bucket: self.values.get(bucket, 0) for bucket in sequences}
        return Unsent(values, self.version, sequences, after, self.sequence)

    def _forget(self) -> None:
        self._changed.clear()
        self._late.clear()
        self._late_version = (-1, ZERO)

    def _put(self, bucket: str, value: int) -> None:
        if value:
            self.values[bucket] = value
        else:
            self.values.pop(bucket, None)
