"""Tally, truth and the transactions between them: exact or inconclusive, never wrong."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_counter.core.drift import Comparison, KeyDrift, confirmed
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.recent import AppliedTransaction, RecentTransactions, add_up
from cdc_counter.core.snapshot import Snapshot
from cdc_counter.errors import InconclusiveError

COUNTER = 1
KEY = (COUNTER, "-")
SPACING = 10


@dataclass(slots=True)
class Server:
    """Transactions in the order of their commit records; they become visible later, and in another order."""

    xids: list[int]
    deltas: list[dict[str, int]]
    written: int = 0
    visible: set[int] = field(default_factory=set)

    def write(self) -> None:
        self.written = min(self.written + 1, len(self.xids))

    def show(self, choice: int) -> None:
        waiting = [n for n in range(self.written) if n not in self.visible]
        if waiting:
            self.visible.add(waiting[choice % len(waiting)])

    def end_lsn(self, count: int) -> Lsn:
        return Lsn(SPACING * count)

    def snapshot(self) -> Snapshot:
        """Return what pg_current_snapshot() says: xmax is one after the newest that is finished."""
        shown = {self.xids[n] for n in self.visible}
        xmax = max(shown, default=min(self.xids, default=1) - 1) + 1
        running = frozenset(xid for xid in self.xids if xid < xmax and xid not in shown)
        return Snapshot(min(running, default=xmax), xmax, running)


@dataclass(slots=True)
class Consumer:
    server: Server
    recent: RecentTransactions
    applied: int = 0

    def apply(self, count: int) -> None:
        while self.applied < min(count, self.server.written):
            number = self.applied
            self.applied += 1
            deltas = self.server.deltas[number]
            lsn = self.server.end_lsn(self.applied)
            self.recent.add([AppliedTransaction(self.server.xids[number], lsn, {KEY: dict(deltas)}, len(deltas))])

    def look(self) -> None:
        self.recent.release(self.server.snapshot())


def total(deltas: list[dict[str, int]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for one in deltas:
        sums.update(one)
    return sums


_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "show", "show", "apply", "apply all", "look"]), st.integers(0, 5)),
    max_size=25,
)
_DELTAS = st.dictionaries(st.sampled_from("xyz"), st.integers(-3, 3), max_size=3)


@st.composite
def worlds(draw: st.DrawFn, max_deltas: int) -> Consumer:
    deltas = draw(st.lists(_DELTAS, min_size=1, max_size=8))
    xids = draw(st.permutations(range(100, 100 + len(deltas))))
    return Consumer(Server(list(xids), deltas), RecentTransactions(max_deltas))


def run(consumer: Consumer, operations: list[tuple[str, int]]) -> None:
    server = consumer.server
    for name, choice in operations:
        match name:
            case "write":
                server.write()
            case "show":
                server.show(choice)
            case "apply":
                consumer.apply(consumer.applied + 1)
            case "apply all":
                consumer.apply(server.written)
            case _:
                consumer.look()


def drift_between(
    consumer: Consumer, before: list[tuple[str, int]], between: list[tuple[str, int]], injected: dict[str, int]
) -> dict[str, int]:
    """Take a snapshot after `before`; compare after `between`, as soon as everything the snapshot sees is applied."""
    server = consumer.server
    run(consumer, before)
    snapshot, written = server.snapshot(), server.written
    truth = total([server.deltas[n] for n in server.visible])
    run(consumer, between)
    consumer.apply(written)
    watermark = server.end_lsn(consumer.applied)
    tally = total([*server.deltas[: consumer.applied], injected])
    hidden = add_up(consumer.recent.hidden_from(snapshot, watermark), COUNTER).get(KEY, {})
    comparison = Comparison()
    comparison.add_tally("-", tally, hidden)
    comparison.add_truth([("-", bucket, value) for bucket, value in truth.items()])
    return {key.bucket: key.difference for key in comparison.drift()}


injections = st.dictionaries(st.sampled_from("xyz"), st.integers(-9, 9).filter(bool), max_size=3)


@given(worlds(max_deltas=1000), _OPERATIONS, _OPERATIONS, injections)
@settings(max_examples=200)
def test_the_drift_is_exactly_what_was_injected(
    consumer: Consumer,
    before: list[tuple[str, int]],
    between: list[tuple[str, int]],
    injected: dict[str, int],
) -> None:
    between = [operation for operation in between if operation[0] != "look"]
    assert drift_between(consumer, before, between, injected) == injected


@given(worlds(max_deltas=4), _OPERATIONS, _OPERATIONS, injections)
@settings(max_examples=200)
def test_a_comparison_with_little_memory_is_exact_or_inconclusive(
    consumer: Consumer,
    before: list[tuple[str, int]],
    between: list[tuple[str, int]],
    injected: dict[str, int],
) -> None:
    try:
        drift = drift_between(consumer, before, between, injected)
    except InconclusiveError:
        return
    assert drift == injected


def applied(xid: int, end: int, delta: int | None = 1) -> AppliedTransaction:
    return AppliedTransaction(xid, Lsn(end), None if delta is None else {KEY: {"x": delta}}, 1)


def test_a_forgotten_transaction_is_inconclusive_only_while_it_is_invisible() -> None:
    recent = RecentTransactions(1)
    recent.add([applied(10, 100)])
    recent.add([applied(11, 110)])
    with pytest.raises(InconclusiveError, match="transaction 10"):
        recent.hidden_from(Snapshot.parse("10:12:10"), Lsn(200))
    assert recent.hidden_from(Snapshot.parse("11:12:11"), Lsn(200)) == [applied(11, 110)]
    assert recent.hidden_from(Snapshot.parse("10:12:10"), Lsn(99)) == []


def test_a_snapshot_taken_before_a_release_is_inconclusive() -> None:
    recent = RecentTransactions(100)
    recent.add([applied(10, 100)])
    recent.release(Snapshot.parse("11:11:"))
    with pytest.raises(InconclusiveError, match="too old"):
        recent.hidden_from(Snapshot.parse("10:11:10"), Lsn(200))
    assert recent.hidden_from(Snapshot.parse("11:11:"), Lsn(200)) == []


def test_a_release_that_lets_nothing_go_makes_no_snapshot_too_old() -> None:
    recent = RecentTransactions(100)
    recent.add([applied(10, 100)])
    recent.release(Snapshot.parse("10:12:10"))
    assert recent.hidden_from(Snapshot.parse("10:11:10"), Lsn(200)) == [applied(10, 100)]


def test_transactions_applied_after_the_watermark_of_the_reading_do_not_count() -> None:
    recent = RecentTransactions(100)
    recent.add([applied(10, 100)])
    recent.add([applied(11, 110)])
    assert recent.hidden_from(Snapshot.parse("5:5:"), Lsn(100)) == [applied(10, 100)]


def test_a_redelivered_transaction_replaces_itself() -> None:
    recent = RecentTransactions(100)
    recent.add([applied(10, 100, None)])
    recent.add([applied(10, 100, 5)])
    assert len(recent) == 1
    recent.add([applied(10, 100, 5)])
    assert recent.hidden_from(Snapshot.parse("5:5:"), Lsn(100)) == [applied(10, 100, 5)]
    assert len(recent) == 1


def test_deltas_of_other_counters_and_scopes_are_kept_apart() -> None:
    one = AppliedTransaction(10, Lsn(1), {(1, "a"): {"x": 1, "y": 2}, (2, "a"): {"x": 9}}, 3)
    two = AppliedTransaction(11, Lsn(2), {(1, "a"): {"x": 1}, (1, "b"): {"x": 4}}, 2)
    assert add_up([one, two, applied(12, 3, None)], 1) == {(1, "a"): {"x": 2, "y": 2}, (1, "b"): {"x": 4}}
    assert one.deltas == {(1, "a"): {"x": 1, "y": 2}, (2, "a"): {"x": 9}}, "what is kept is not changed by adding up"


def compared(
    tally: dict[str, int], truth: dict[str, int], hidden: dict[str, int] | None = None, *, whole: bool = True
) -> Comparison:
    comparison = Comparison()
    comparison.add_tally("s", tally, hidden or {}, whole=whole)
    comparison.add_truth([("s", bucket, value) for bucket, value in truth.items()])
    return comparison


def test_no_drift_leaves_nothing_and_absent_buckets_are_zero() -> None:
    assert compared({"x": 3}, {"x": 1}, {"x": 2}).drift() == []
    assert compared({}, {"x": 1}).drift() == [KeyDrift("s", "x", 0, 1)]
    assert compared({"x": 0}, {}, {"y": 2}).drift() == [KeyDrift("s", "y", -2, 0)]
    assert compared({"x": 7, "y": 1}, {"x": 5, "z": 2}, {"x": 1}).drift() == [
        KeyDrift("s", "x", 6, 5),
        KeyDrift("s", "y", 1, 0),
        KeyDrift("s", "z", 0, 2),
    ]


def test_every_key_that_is_not_zero_on_both_sides_is_counted_once() -> None:
    assert compared({"x": 3, "y": 1}, {"x": 3, "z": 2}).keys == 3
    assert compared({"x": 3}, {}, {"x": 3}).keys == 0


def test_of_a_part_of_a_hash_absent_buckets_are_unknown() -> None:
    assert compared({"x": 1}, {"x": 1}, {"y": 2}, whole=False).drift() == []


def test_a_bucket_that_is_read_again_replaces_itself() -> None:
    comparison = Comparison()
    comparison.add_tally("s", {"x": 3, "y": 4}, {}, whole=False)
    comparison.add_tally("s", {"x": 5, "y": 0}, {"x": 2, "y": -4}, whole=False)
    comparison.add_truth([("s", "x", 3), ("s", "y", 4)])
    assert comparison.drift() == []
    assert comparison.keys == 2


def test_only_what_two_comparisons_agree_on_is_confirmed() -> None:
    first = [KeyDrift("s", "x", 6, 5), KeyDrift("s", "y", 6, 5)]
    second = [KeyDrift("s", "x", 8, 7), KeyDrift("s", "y", 9, 7), KeyDrift("s", "z", 1, 0)]
    assert confirmed(first, second) == [KeyDrift("s", "x", 8, 7)]


def test_what_was_touched_since_is_named_unless_it_is_not_held() -> None:
    recent = RecentTransactions(100)
    recent.add([applied(10, 100, None)])
    recent.add([AppliedTransaction(11, Lsn(110), {(1, "a"): {"x": 1}, (2, "a"): {"z": 1}}, 2)])
    recent.add([AppliedTransaction(12, Lsn(120), {(1, "a"): {"y": 1}, (1, "b"): {"x": 0}}, 2)])
    assert recent.touched(1, Lsn(101)) == {"a": {"x", "y"}, "b": {"x"}}
    with pytest.raises(InconclusiveError, match="transaction 10"):
        recent.touched(1, Lsn(100))


@given(worlds(max_deltas=1000), _OPERATIONS, st.lists(_OPERATIONS, min_size=2, max_size=4), injections)
@settings(max_examples=100)
def test_tallies_read_in_pieces_at_several_watermarks_compare_exactly(
    consumer: Consumer,
    before: list[tuple[str, int]],
    between: list[list[tuple[str, int]]],
    injected: dict[str, int],
) -> None:
    """Each bucket is read at another moment, and the last round reads some of them again."""
    server = consumer.server
    run(consumer, before)
    snapshot, written = server.snapshot(), server.written
    truth = total([server.deltas[n] for n in server.visible])
    consumer.apply(written)
    comparison = Comparison()
    for number, operations in enumerate(between):
        run(consumer, [operation for operation in operations if operation[0] != "look"])
        watermark = server.end_lsn(consumer.applied)
        tally = total([*server.deltas[: consumer.applied], injected])
        hidden = add_up(consumer.recent.hidden_from(snapshot, watermark), COUNTER).get(KEY, {})
        some = "xyz" if number == 0 else "xyz"[number % 3 :]
        comparison.add_tally("-", {bucket: tally[bucket] for bucket in some}, hidden, whole=False)
    comparison.add_truth([("-", bucket, value) for bucket, value in truth.items()])
    assert {key.bucket: key.difference for key in comparison.drift()} == injected
