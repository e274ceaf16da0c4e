"""What to do at every (re)connection, decided from what both servers say: the start-up decision table.

PostgreSQL validates nothing a client tells it: it skips ahead of an old start position without a word, accepts one in
the future and swallows what lies between. So before streaming, and once more after START_REPLICATION, epoch, watermark,
slot and publication are compared here. Since the watermark moves in Redis before the slot is told, a slot that is
ahead of the watermark always means that Redis lost writes, and never anything else.

What can't be continued is counted again in a new epoch. Where the slot is sound and only Redis lost something, the
epoch begins where the slot stands: nobody's transaction is waited for. Otherwise it begins at a new slot.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from cdc_counter.core.eviction import Evictions
from cdc_counter.core.fuse import NO_FUSE, Fuse
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.watermark import Watermark
from cdc_counter.errors import (
    BusyError,
    CdcCounterError,
    NotReadyError,
    RefusedError,
    ReseedNeededError,
    UnreachableError,
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One lifetime of tallies; LSNs compare only inside one. `identity` is new with every (re)seed.

    `publication` is the mark of the publication that it began with, '' where that is not known.
    """

    identity: str
    system_identifier: str
    database_oid: int
    timeline: int
    slot: str
    publication: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """What Redis holds: the epoch of its tallies and their watermark.

    `evictions` is what Redis had evicted when they were known to be whole; None where that was not noted.
    """

    epoch: Epoch
    watermark: Watermark
    evictions: Evictions | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """The row of pg_replication_slots. `lost` has the reason when the slot can't be read any more.

    `retained` is what it makes the server keep, in bytes; `inactive_seconds` how long nobody has streamed it (17+).
    """

    plugin: str
    database_oid: int
    confirmed_flush: Lsn | None
    active_pid: int | None
    lost: str | None
    retained: int | None = None
    inactive_seconds: float = 0.0


class PublicationFault(StrEnum):
    """How a publication can fail to carry every outbox row."""

    MISSING = "does not exist"
    NOTHING_TO_PUBLISH = "has no outbox to publish: it was renamed or dropped"
    NO_OUTBOX = "does not publish the outbox"
    NO_INSERT = "does not publish inserts"
    MORE_THAN_INSERT = "publishes more than inserts"
    NOT_VIA_ROOT = "does not publish the outbox under its own name (publish_via_partition_root is off)"
    FILTERED = "filters rows or columns of the outbox"
    OTHER_TABLES = "publishes other tables too"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the connection that is going to stream says. `timeline_switch` is where the stored timeline was left.

    `next_xid`: no transaction that began until now has this identifier (64 bits) or a higher one.
    """

    system_identifier: str
    timeline: int
    database_oid: int
    flush_lsn: Lsn
    slot: SlotFacts | None
    publication: PublicationFault | None
    next_xid: int
    timeline_switch: Lsn | None = None
    in_recovery: bool = False
    publication_mark: str = ""


class Loss(StrEnum):
    """What was lost, so that the tallies can't be continued."""

    TALLIES_GONE = "tallies gone"
    TALLIES_DAMAGED = "tallies damaged"
    EVICTED = "evicted"
    GAP = "gap"
    SLOT_GONE = "slot gone"
    SLOT_LOST = "slot lost"
    SLOT_UNDECODABLE = "slot undecodable"
    FUSE_BLOWN = "fuse blown"
    OTHER_HISTORY = "other history"
    PUBLICATION_GONE = "publication gone"
    ROWS_DROPPED = "rows dropped"

    @property
    def keeps_slot(self) -> bool:
        """Whether the slot still sends every commit from where it stands, so that an epoch can begin there."""
        return self in {Loss.TALLIES_GONE, Loss.TALLIES_DAMAGED, Loss.EVICTED, Loss.GAP}


class LostError(ReseedNeededError):
    """The tallies can't be continued, and this is what was lost."""

    def __init__(self, loss: Loss, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.loss = loss


def loss_of(error: ReseedNeededError) -> Loss:
    """Return what was lost. What the stream says of itself is that rows are missing from it."""
    return error.loss if isinstance(error, LostError) else Loss.ROWS_DROPPED


class Action(StrEnum):
    """What follows."""

    CONTINUE = "continue"
    INSTALL = "install"
    WAIT = "wait"
    RETRY = "retry"
    REFUSE = "refuse"
    RESEED = "reseed"


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the table: what follows, why, and what the operator should do. `loss` belongs to `reseed`."""

    action: Action
    reason: str = ""
    hint: str | None = None
    loss: Loss = Loss.GAP

    def error(self) -> CdcCounterError:
        """Return the error that this decision stands for; only for decisions other than `continue`."""
        match self.action:
            case Action.INSTALL:
                return NotReadyError(self.reason, hint=self.hint)
            case Action.WAIT:
                return BusyError(self.reason, hint=self.hint)
            case Action.RETRY:
                return UnreachableError(self.reason, hint=self.hint)
            case Action.REFUSE:
                return RefusedError(self.reason, hint=self.hint)
            case Action.RESEED:
                return LostError(self.loss, self.reason, hint=self.hint)
            case Action.CONTINUE:
                raise ValueError("continuing is not an error")


_CONTINUE = Decision(Action.CONTINUE)


def decide(
    stored: Stored | None,
    server: ServerFacts,
    slot_name: str,
    *,
    known: Epoch | None = None,
    damage: str = "",
    fuse: Fuse = NO_FUSE,
) -> Decision:
    """Return what may be done with these tallies on this server.

    Without tallies, `known` is the epoch that this very process held before, and `damage` says what is in their place.
    """
    if stored is None:
        return _nothing_stored(server, slot_name, known, damage, fuse)
    return (
        belongs_elsewhere(stored, server, slot_name)
        or a_primary(server)
        or _same_history(stored, server)
        or _readable_slot(server, slot_name)
        or _within_fuse(server, slot_name, fuse)
        or _no_gap(stored, server, slot_name)
        or _whole_publication(server)
        or _same_publication(stored, server)
        or _CONTINUE
    )


def recheck_after_start(watermark: Watermark, confirmed_flush: Lsn | None, slot_name: str) -> Decision:
    """Compare once more after START_REPLICATION: the slot may have been moved between the check and the start."""
    if confirmed_flush is None:
        return _reseed(Loss.SLOT_GONE, f"slot {slot_name!r} disappeared while the stream was starting")
    if confirmed_flush > watermark.lsn:
        return _gap(watermark, confirmed_flush, slot_name)
    return _CONTINUE


def _nothing_stored(server: ServerFacts, slot_name: str, known: Epoch | None, damage: str, fuse: Fuse) -> Decision:
    elsewhere = None if known is None else _of_other_database(known, server)
    if (amiss := elsewhere or a_primary(server)) is not None:
        return amiss
    if server.slot is None and known is None and not damage:
        return Decision(
            Action.INSTALL, "nothing is installed: neither tallies in Redis nor a slot", "run 'cdc-counter init' first"
        )
    # A missing watermark is never zero.
    return (
        _readable_slot(server, slot_name)
        or _within_fuse(server, slot_name, fuse)
        or _reseed(
            Loss.TALLIES_DAMAGED if damage else Loss.TALLIES_GONE,
            damage
            or f"slot {slot_name!r} exists but Redis has no tallies under this prefix: Redis lost them, or the prefix "
            "or the database number is wrong",
            "check redis.url and redis.prefix; if they are right run 'cdc-counter init --reseed'",
        )
    )


def belongs_elsewhere(stored: Stored, server: ServerFacts, slot_name: str) -> Decision | None:
    """Return why these tallies are not of this database and slot; None when they are."""
    return _of_other_database(stored.epoch, server) or _of_other_slot(stored.epoch, slot_name)


def _of_other_database(epoch: Epoch, server: ServerFacts) -> Decision | None:
    if epoch.system_identifier != server.system_identifier:
        return Decision(
            Action.REFUSE,
            f"the tallies were counted on system {epoch.system_identifier}, this server is {server.system_identifier}",
            "check postgres.dsn; give every database a redis.prefix of its own, or run 'cdc-counter init --reseed' "
            "if this database takes the old one's place",
        )
    if epoch.database_oid != server.database_oid:
        return Decision(
            Action.REFUSE,
            f"the tallies were counted in the database with oid {epoch.database_oid}, not {server.database_oid}",
            "check the database name in postgres.dsn; give every database a redis.prefix of its own",
        )
    return None


def _of_other_slot(epoch: Epoch, slot_name: str) -> Decision | None:
    """Two consumers with slots of their own would take every watermark from each other, and each the other's epoch."""
    if epoch.slot == slot_name:
        return None
    return Decision(
        Action.REFUSE,
        f"the tallies are streamed from slot {epoch.slot!r}, not {slot_name!r}",
        "check postgres.slot; give every deployment a redis.prefix of its own, or run 'cdc-counter init --reseed' if "
        f"this slot takes the old one's place, and drop {epoch.slot!r} then, for it holds back WAL",
    )


def a_primary(server: ServerFacts) -> Decision | None:
    """Return why to look again: an address that moves leads to a standby until that is promoted.

    A slot that says it is synchronized tells nothing: it still does after the promotion.
    """
    if not server.in_recovery:
        return None
    return Decision(
        Action.RETRY, "this server is a standby, in recovery: only a primary is streamed", "point postgres.dsn at it"
    )


def _same_history(stored: Stored, server: ServerFacts) -> Decision | None:
    lsn, timeline = stored.watermark.lsn, stored.epoch.timeline
    if server.timeline < timeline:
        reason = f"the server is on timeline {server.timeline}, the tallies were counted on {timeline}"
    elif server.timeline > timeline and (server.timeline_switch is None or lsn > server.timeline_switch):
        left = "unknown" if server.timeline_switch is None else str(server.timeline_switch)
        reason = (
            f"the tallies hold commits up to {lsn} of timeline {timeline}, which the promoted server left at {left}"
        )
    elif lsn > server.flush_lsn:
        reason = f"the tallies are at {lsn}, the server's WAL ends at {server.flush_lsn}: the database was restored"
    else:
        return None
    return _reseed(Loss.OTHER_HISTORY, reason)


def _readable_slot(server: ServerFacts, slot_name: str) -> Decision | None:
    slot = server.slot
    if slot is None:
        return _reseed(Loss.SLOT_GONE, f"slot {slot_name!r} does not exist any more")
    if slot.plugin != "pgoutput" or slot.database_oid != server.database_oid:
        return Decision(
            Action.REFUSE,
            f"slot {slot_name!r} is not ours: plugin {slot.plugin}, database oid {slot.database_oid}",
            "choose another postgres.slot",
        )
    if slot.lost is not None:
        return _reseed(Loss.SLOT_LOST, f"slot {slot_name!r} can't be read any more: {slot.lost}")
    if slot.active_pid is not None:
        return Decision(
            Action.WAIT,
            f"slot {slot_name!r} is active for pid {slot.active_pid}",
            "another consumer streams it; this one waits as its stand-by",
        )
    if slot.confirmed_flush is None:
        return _reseed(Loss.SLOT_LOST, f"slot {slot_name!r} was never completed")
    return None


def _within_fuse(server: ServerFacts, slot_name: str, fuse: Fuse) -> Decision | None:
    """Return why not to begin to stream a slot that is about to be dropped; who watches the server drops it."""
    slot = server.slot
    reason = fuse.blown(slot.retained, slot.inactive_seconds) if slot else ""
    if not reason:
        return None
    return Decision(Action.RETRY, f"slot {slot_name!r} {reason}: it is dropped, and everything counted again")


def _no_gap(stored: Stored, server: ServerFacts, slot_name: str) -> Decision | None:
    confirmed = server.slot.confirmed_flush if server.slot else None
    if confirmed is not None and confirmed > stored.watermark.lsn:
        return _gap(stored.watermark, confirmed, slot_name)
    return None


def _whole_publication(server: ServerFacts) -> Decision | None:
    # Without an outbox no row can be missing: what could not be captured is said in the WAL, and streamed as ever.
    if server.publication in {None, PublicationFault.NOTHING_TO_PUBLISH}:
        return None
    reason, hint = (
        f"the publication {server.publication}: rows may be missing from the stream",
        "run 'cdc-counter init --reseed'",
    )
    if server.publication is PublicationFault.MISSING:
        return _reseed(Loss.PUBLICATION_GONE, reason, hint)
    return Decision(Action.REFUSE, reason, hint)


def _same_publication(stored: Stored, server: ServerFacts) -> Decision | None:
    """Return that rows may be missing: what was written while it was altered is not sent, and nothing else tells."""
    # Where the outbox is gone its mark is compared when it is back.
    if server.publication is PublicationFault.NOTHING_TO_PUBLISH or stored.epoch.publication in {
        "",
        server.publication_mark,
    }:
        return None
    return _reseed(Loss.ROWS_DROPPED, "the publication was altered since the tallies were begun: rows may be missing")


def _gap(watermark: Watermark, confirmed_flush: Lsn, slot_name: str) -> Decision:
    return _reseed(
        Loss.GAP,
        f"slot {slot_name!r} stands at {confirmed_flush}, the tallies only at {watermark.lsn}: Redis lost what it had "
        "applied, or the slot was moved",
    )


def _reseed(loss: Loss, reason: str, hint: str | None = None) -> Decision:
    return Decision(Action.RESEED, reason, hint, loss)
