"""What is let go by a newer snapshot must not be missing from a comparison with an older one."""

import pytest

from cdc_counter.core.lifecycle import Epoch
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.recent import AppliedTransaction
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.core.watermark import Watermark
from cdc_counter.errors import InconclusiveError
from cdc_counter.runtime.lineage import Lineage

OLDER, NEWER = Snapshot.parse("10:11:10"), Snapshot.parse("12:12:")
TRANSACTION = AppliedTransaction(10, Lsn(90), {(1, "-"): {"x": 1}}, 1)


def lineage() -> Lineage:
    made = Lineage.from_notes(Epoch("e", "1", 5, 1, "slot"), Watermark(Lsn(100)), 100, [])
    made.remember([TRANSACTION])
    return made


def test_while_a_snapshot_is_compared_nothing_is_let_go() -> None:
    held = lineage()
    with held.holding():
        held.release(NEWER)
        assert held.unseen(OLDER, 1) == [TRANSACTION]
    held.release(NEWER)
    assert held.unseen(NEWER, 1) == []


def test_what_was_seen_before_is_let_go_also_while_a_snapshot_is_compared() -> None:
    """A long backlog is applied meanwhile: all of it was visible before it came."""
    held = lineage()
    held.release(Snapshot.parse("9:9:"))
    with held.holding():
        held.remember([AppliedTransaction(xid, Lsn(90 + xid), {(1, "-"): {"x": 1}}, 1) for xid in (5, 8)])
        held.noted("5 8", 0)
        held.release(NEWER)
        assert len(held.recent) == 1, "only the one that an older snapshot than the newest may not see"
        assert held.surplus_notes == 1
        assert held.unseen(OLDER, 1) == [TRANSACTION]
    assert len(held.recent) == 0


def test_a_snapshot_older_than_what_was_let_go_is_inconclusive() -> None:
    released = lineage()
    released.release(NEWER)
    with pytest.raises(InconclusiveError, match="too old"):
        released.unseen(OLDER, 1)


def test_a_transaction_whose_capture_broke_stays_known_while_a_snapshot_is_compared() -> None:
    held = lineage()
    held.capture_broke(1, [TRANSACTION])
    with held.holding():
        held.release(NEWER)
        with pytest.raises(InconclusiveError, match="could not be computed"):
            held.unseen(OLDER, 1)
