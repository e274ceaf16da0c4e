"""What a snapshot sees, read from the text that PostgreSQL prints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.snapshot import Snapshot
from cdc_counter.errors import ProtocolError


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    xmin = draw(st.integers(1, 20))
    xmax = draw(st.integers(xmin, xmin + 12))
    running = draw(st.frozensets(st.integers(xmin, max(xmin, xmax - 1)), max_size=5)) if xmax > xmin else frozenset()
    return Snapshot(xmin, xmax, running)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10:10:", Snapshot(10, 10, frozenset())),
        ("10:20:10,14,15", Snapshot(10, 20, frozenset({10, 14, 15}))),
        ("4294967296:4294967298:4294967296", Snapshot(1 << 32, (1 << 32) + 2, frozenset({1 << 32}))),
    ],
)
def test_the_servers_text_is_read(text: str, expected: Snapshot) -> None:
    assert Snapshot.parse(text) == expected


@pytest.mark.parametrize("text", ["", "10", "10:20", "10:20:,", "10:20:1,", "a:b:c", "10:20:1\n", " 10:20:", "-1:2:"])
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(ProtocolError, match="not a snapshot"):
        Snapshot.parse(text)


def test_a_transaction_is_seen_unless_it_ran_or_came_later() -> None:
    snapshot = Snapshot.parse("10:20:12,15")
    assert [xid for xid in range(8, 22) if not snapshot.sees(xid)] == [12, 15, 20, 21]


@given(snapshots(), snapshots())
def test_a_snapshot_that_includes_another_sees_all_that_the_other_sees(one: Snapshot, other: Snapshot) -> None:
    if one.includes(other):
        assert all(one.sees(xid) for xid in range(40) if other.sees(xid))


@given(snapshots())
def test_a_snapshot_includes_itself(snapshot: Snapshot) -> None:
    assert snapshot.includes(snapshot)
