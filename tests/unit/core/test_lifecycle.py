"""Every row of the start-up decision table."""

from dataclasses import replace
from typing import Any

import pytest

from cdc_counter.core.lifecycle import (
    Action,
    Decision,
    Epoch,
    Loss,
    LostError,
    PublicationFault,
    ServerFacts,
    SlotFacts,
    Stored,
    decide,
    loss_of,
    recheck_after_start,
)
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.errors import BusyError, NotReadyError, RefusedError, ReseedNeededError, UnreachableError

SLOT = SlotFacts(plugin="pgoutput", database_oid=5, confirmed_flush=Lsn(90), active_pid=None, lost=None)
SERVER = ServerFacts(
    system_identifier="7000", timeline=2, database_oid=5, flush_lsn=Lsn(200), slot=SLOT, publication=None, next_xid=1000
)
STORED = Stored(Epoch("e", "7000", 5, 2, "s"), Watermark(Lsn(100)))


def with_slot(**changes: Any) -> ServerFacts:
    return replace(SERVER, slot=replace(SLOT, **changes))


def at(lsn: int, partial: Partial | None = None) -> Stored:
    return replace(STORED, watermark=Watermark(Lsn(lsn), partial))


TABLE: dict[str, tuple[Stored | None, ServerFacts, Action, str]] = {
    "all is well": (STORED, SERVER, Action.CONTINUE, ""),
    "slot behind the watermark": (STORED, with_slot(confirmed_flush=Lsn(1)), Action.CONTINUE, ""),
    "slot at the watermark": (STORED, with_slot(confirmed_flush=Lsn(100)), Action.CONTINUE, ""),
    "half a transaction applied": (at(100, Partial(7, 1)), SERVER, Action.CONTINUE, ""),
    "nothing anywhere": (None, replace(SERVER, slot=None), Action.INSTALL, "nothing is installed"),
    "tallies lost": (None, SERVER, Action.RESEED, "Redis has no tallies under this prefix"),
    "other system": (STORED, replace(SERVER, system_identifier="8000"), Action.REFUSE, "this server is 8000"),
    "other database": (STORED, replace(SERVER, database_oid=6), Action.REFUSE, "with oid 5, not 6"),
    "other slot": (
        replace(STORED, epoch=replace(STORED.epoch, slot="other")), SERVER, Action.REFUSE, "from slot 'other', not 's'",
    ),
    "other slot, and ours is missing": (
        replace(STORED, epoch=replace(STORED.epoch, slot="other")), replace(SERVER, slot=None), Action.REFUSE, "other",
    ),
    "promoted after the watermark": (
        STORED, replace(SERVER, timeline=3, timeline_switch=Lsn(101)), Action.CONTINUE, "",
    ),
    "promoted at the watermark": (
        STORED, replace(SERVER, timeline=3, timeline_switch=Lsn(100)), Action.CONTINUE, "",
    ),
    "promoted before the watermark": (
        STORED, replace(SERVER, timeline=3, timeline_switch=Lsn(99)), Action.RESEED, "server left at 0/63",
    ),
    "promoted at an unknown position": (
        STORED, replace(SERVER, timeline=3, timeline_switch=None), Action.RESEED, "left at unknown",
    ),
    "an older timeline": (STORED, replace(SERVER, timeline=1), Action.RESEED, "on timeline 1"),
    "watermark at the end of WAL": (at(200), SERVER, Action.CONTINUE, ""),
    "watermark beyond the end of WAL": (at(201), SERVER, Action.RESEED, "the server's WAL ends at 0/C8"),
    "slot missing": (STORED, replace(SERVER, slot=None), Action.RESEED, "slot 's' does not exist any more"),
    "slot invalidated": (STORED, with_slot(lost="wal_removed"), Action.RESEED, "can't be read any more: wal_removed"),
    "slot of another plugin": (STORED, with_slot(plugin="wal2json"), Action.REFUSE, "plugin wal2json"),
    "slot of another database": (STORED, with_slot(database_oid=6), Action.REFUSE, "database oid 6"),
    "a standby": (STORED, replace(SERVER, in_recovery=True), Action.RETRY, "this server is a standby"),
    "a standby that is behind": (
        at(201), replace(SERVER, in_recovery=True, slot=None), Action.RETRY, "this server is a standby",
    ),
    "a standby, nothing anywhere": (None, replace(SERVER, in_recovery=True, slot=None), Action.RETRY, "a standby"),
    "slot streamed by another": (STORED, with_slot(active_pid=4242), Action.WAIT, "is active for pid 4242"),
    "slot half made": (STORED, with_slot(confirmed_flush=None), Action.RESEED, "never completed"),
    "slot ahead of the watermark": (STORED, with_slot(confirmed_flush=Lsn(101)), Action.RESEED, "tallies only at 0/64"),
    "publication missing": (
        STORED, replace(SERVER, publication=PublicationFault.MISSING), Action.RESEED, "the publication does not exist",
    ),
    "publication altered since": (
        replace(STORED, epoch=replace(STORED.epoch, publication="1:2")), replace(SERVER, publication_mark="1:3"),
        Action.RESEED, "the publication was altered",
    ),
    "outbox renamed": (
        replace(STORED, epoch=replace(STORED.epoch, publication="1:2")),
        replace(SERVER, publication=PublicationFault.NOTHING_TO_PUBLISH, publication_mark="1"), Action.CONTINUE, "",
    ),
    "publication as it was": (
        replace(STORED, epoch=replace(STORED.epoch, publication="1:2")), replace(SERVER, publication_mark="1:2"),
        Action.CONTINUE, "",
    ),
} | {
    f"publication: {fault}": (STORED, replace(SERVER, publication=fault), Action.REFUSE, f"the publication {fault}")
    for fault in PublicationFault
    if fault not in {PublicationFault.MISSING, PublicationFault.NOTHING_TO_PUBLISH}
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE)
def test_what_is_observed_decides_what_follows(row: str) -> None:
    stored, server, action, reason = TABLE[row]
    decision = decide(stored, server, "s")
    assert decision.action is action, decision
    assert reason in decision.reason
    assert bool(decision.reason) == (action is not Action.CONTINUE)


LOSSES: dict[str, Loss] = {
    "tallies lost": Loss.TALLIES_GONE,
    "promoted before the watermark": Loss.OTHER_HISTORY,
    "promoted at an unknown position": Loss.OTHER_HISTORY,
    "an older timeline": Loss.OTHER_HISTORY,
    "watermark beyond the end of WAL": Loss.OTHER_HISTORY,
    "slot missing": Loss.SLOT_GONE,
    "slot invalidated": Loss.SLOT_LOST,
    "slot half made": Loss.SLOT_LOST,
    "slot ahead of the watermark": Loss.GAP,
    "publication missing": Loss.PUBLICATION_GONE,
    "publication altered since": Loss.ROWS_DROPPED,
}


def test_every_reseed_says_what_was_lost() -> None:
    found = {
        row: decide(stored, server, "s").loss
        for row, (stored, server, action, _) in TABLE.items()
        if action is Action.RESEED
    }
    assert found == LOSSES


def test_only_what_redis_lost_can_be_counted_from_where_the_slot_stands() -> None:
    assert {loss for loss in Loss if loss.keeps_slot} == {
        Loss.TALLIES_GONE,
        Loss.TALLIES_DAMAGED,
        Loss.EVICTED,
        Loss.GAP,
    }
    assert loss_of(ReseedNeededError("the server dropped rows")) is Loss.ROWS_DROPPED
    assert not Loss.ROWS_DROPPED.keeps_slot


NO_SLOT = replace(SERVER, slot=None)

WITHOUT_TALLIES: dict[str, tuple[ServerFacts, Epoch | None, str, Action, Loss | None]] = {
    "never installed": (NO_SLOT, None, "", Action.INSTALL, None),
    "slot lost, too": (NO_SLOT, STORED.epoch, "", Action.RESEED, Loss.SLOT_GONE),
    "slot lost, tallies damaged": (NO_SLOT, None, "damaged", Action.RESEED, Loss.SLOT_GONE),
    "damaged": (SERVER, None, "damaged", Action.RESEED, Loss.TALLIES_DAMAGED),
    "another consumer streams": (with_slot(active_pid=1), None, "", Action.WAIT, None),
    "slot invalidated": (with_slot(lost="wal_removed"), None, "", Action.RESEED, Loss.SLOT_LOST),
    "slot of another plugin": (with_slot(plugin="x"), None, "", Action.REFUSE, None),
    "now another system": (replace(SERVER, system_identifier="8"), STORED.epoch, "", Action.REFUSE, None),
}


@pytest.mark.parametrize("row", WITHOUT_TALLIES)
def test_without_tallies_it_counts_what_this_process_held_before(row: str) -> None:
    server, known, damage, action, loss = WITHOUT_TALLIES[row]
    decision = decide(None, server, "s", known=known, damage=damage)
    assert decision.action is action, decision
    assert loss is None or decision.loss is loss
    assert damage in decision.reason or loss is Loss.SLOT_GONE


def test_what_makes_other_positions_meaningless_is_looked_at_first() -> None:
    """On another system neither the slot's position nor the watermark means anything."""
    foreign = replace(with_slot(confirmed_flush=Lsn(10**6), active_pid=1), system_identifier="8000", timeline=9)
    assert decide(STORED, foreign, "s").action is Action.REFUSE
    lost = with_slot(lost="wal_removed", active_pid=1, confirmed_flush=None)
    assert decide(STORED, lost, "s").action is Action.RESEED


@pytest.mark.parametrize(
    ("confirmed", "action"),
    [
        (Lsn(99), Action.CONTINUE),
        (Lsn(100), Action.CONTINUE),
        (Lsn(101), Action.RESEED),
        (None, Action.RESEED),
    ],
)
def test_a_slot_that_moved_between_check_and_start_is_noticed(confirmed: Lsn | None, action: Action) -> None:
    assert recheck_after_start(Watermark(Lsn(100)), confirmed, "s").action is action


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (Action.INSTALL, NotReadyError),
        (Action.WAIT, BusyError),
        (Action.RETRY, UnreachableError),
        (Action.REFUSE, RefusedError),
        (Action.RESEED, LostError),
    ],
)
def test_each_decision_stands_for_one_error(action: Action, error: type[Exception]) -> None:
    raised = Decision(action, "because", "do this").error()
    assert type(raised) is error
    assert (str(raised), raised.hint) == ("because", "do this")


def test_a_reseed_says_how_unless_the_decision_knows_better() -> None:
    assert "init --reseed" in Decision(Action.RESEED, "because").error().hint
    with pytest.raises(ValueError, match="continuing is not an error"):
        Decision(Action.CONTINUE).error()
