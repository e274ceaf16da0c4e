"""What the loops need of the outside world, as protocols; the real ones are joined to them in `wiring`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.durability import NotKept
from cdc_counter.core.eviction import Evictions
from cdc_counter.core.frames import StandbyStatusUpdate
from cdc_counter.core.lifecycle import ServerFacts, Stored
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied, Conflict, Move, OtherEpoch, Outcome, TallyGroup
from cdc_counter.core.paging import PageRequest, TallyPage
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.core.status import StreamStatus
from cdc_counter.core.verification import Verification


class Stream(Protocol):
    """One replication session."""

    async def facts(self, stored_timeline: int | None) -> ServerFacts:
        """Ask the server who it is and how slot and publication stand."""

    async def start(self, at: Lsn) -> None:
        """Start streaming at an end position."""

    async def read(self, limit: int) -> list[bytes]:
        """Wait for CopyData payloads; return at least one, no more once they have `limit` bytes."""

    def send(self, update: StandbyStatusUpdate, now: float) -> None:
        """Tell the server how far we are."""

    async def finish(self) -> None:
        """End in an orderly way, so that the server has read what was sent."""

    async def close(self) -> None:
        """Close at once."""


class Observation(Protocol):
    """One look at the server from beside the stream."""

    @property
    def snapshot(self) -> Snapshot:
        """What every newer snapshot sees."""

    @property
    def flush_lsn(self) -> Lsn:
        """Where the WAL ends."""

    @property
    def retained_wal(self) -> int | None:
        """Bytes that the slot makes the server keep."""

    @property
    def wal_status(self) -> str | None:
        """As in pg_replication_slots."""

    @property
    def confirmed(self) -> Lsn | None:
        """Where the slot stands; None without one, or while it is made."""

    @property
    def active(self) -> bool:
        """Whether somebody streams the slot, or makes it."""

    @property
    def outbox_exists(self) -> bool:
        """Whether there is an outbox of its name: without one the mark tells nothing."""

    @property
    def publication_mark(self) -> str:
        """What tells an altered publication from the one that it was; '' without one."""

    @property
    def inactive_seconds(self) -> float:
        """How long nobody has (PostgreSQL 17 and later, else 0)."""


class Observer(Protocol):
    """The side connection."""

    async def observe(self) -> Observation:
        """Look."""

    async def confirmed_flush(self) -> Lsn | None:
        """Return where the slot stands; None when it is gone."""

    async def heartbeat(self) -> None:
        """Commit an empty outbox row."""


class Recount(Protocol):
    """An open snapshot of the counted tables; every commit that it sees ends at or before `lsn`."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot."""

    @property
    def lsn(self) -> Lsn:
        """A position after everything it sees."""

    @property
    def estimated_rows(self) -> int:
        """About how many rows there are to count."""

    @property
    def counter_id(self) -> int:
        """Which counter is counted: the id that its deltas carry, as of the snapshot."""

    def truth(self, counter: str, chunk: int, scope: str | None = None) -> AsyncIterator[list[tuple[str, str, int]]]:
        """Yield (scope, bucket, value) in lists, of all scopes or one."""


class Recounter(Protocol):
    """Opens snapshots."""

    def open(self, counter: str) -> AbstractAsyncContextManager[Recount]:
        """Take a snapshot for recounting one counter."""


class Tallies(Protocol):
    """The writing side of Redis."""

    async def load(self) -> Stored | None:
        """Return the stored epoch and watermark."""

    async def evictions(self) -> Evictions:
        """Return what the server says that it evicted."""

    async def counters(self) -> dict[str, CounterRecord]:
        """Return every counter's record by name."""

    async def recent(self) -> list[str]:
        """Return the notes of applied steps, oldest first."""

    async def apply(
        self,
        epoch: str,
        moves: Sequence[Move],
        groups: Sequence[TallyGroup],
        *,
        version: str = "",
        note: str = "",
        surplus_notes: int = 0,
        repair: str = "",
    ) -> Outcome:
        """Add deltas and move meta fields in one step, or do nothing."""

    async def set_counter(self, epoch: str, record: CounterRecord, *, seed: str = "") -> Outcome:
        """Write the record of a counter that is stored with the same id (and seed mark), and tell readers."""

    async def removed(self) -> dict[str, str]:
        """Return the counters whose tallies are still to be cleared, with the ids they had."""

    async def clear_removed(self, epoch: str, name: str, removed_id: str) -> bool:
        """Delete all tallies of a removed counter; False when it is back."""

    async def mark(self, field: str) -> str:
        """Return what stands in a meta field."""

    async def discard_hidden(self, epoch: str, counter: str, mark: str) -> None:
        """Delete what an unfinished seed left, if the journal still has this mark."""

    async def delete_gone(self, epoch: str, counter: str, mark: str) -> None:
        """Delete old tallies of scopes that the seed has none for, if the journal still has this mark."""

    def publish(self, epoch: str, counter: str, mark: str) -> AsyncIterator[int]:
        """Put seeded tallies where readers look, if the journal still has this mark."""

    async def report(self, status: StreamStatus) -> None:
        """Store the consumer's report."""


class Durability(Protocol):
    """Makes tallies durable."""

    @property
    def seconds(self) -> float:
        """How long replicas and disks are waited for."""

    async def ask(self, epoch: str, lsn: Lsn) -> Applied | NotKept | Conflict | OtherEpoch:
        """Wait until everything through `lsn` is durable, or say why it is not."""


class TallyPages(Protocol):
    """The reading side of Redis, with the watermark of each reading."""

    async def scopes(self, counter: str) -> list[str]:
        """Return every scope that has a tally."""

    def requests(self, counter: str, scopes: Sequence[str]) -> AsyncIterator[PageRequest]:
        """Yield what to ask for, to see all of these scopes; a part of a scope is followed by its cursor."""

    async def page(self, counter: str, request: PageRequest) -> TallyPage:
        """Read one page; raises UnfitTallyError when what is there is no tally."""


class Verifications(Protocol):
    """Where the last verification of each counter is kept."""

    async def note(self, verification: Verification) -> None:
        """Store it."""

    async def all(self) -> dict[str, Verification]:
        """Return what is stored, by counter."""
