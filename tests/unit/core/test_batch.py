"""Batches: whatever the history, the moments of taking, the sizes and the crashes, every delta is applied once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_counter.core.assembly import Assembly
from cdc_counter.core.batch import MOST_TOGETHER, Batcher, Step
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outbox import SCOPE_COST, Loss
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.errors import ProtocolError, ReseedNeededError
from tests.unit.core.histories import NAMESPACE, History, Key, histories, rows_up_to, stream, total

MOMENTS = st.lists(st.sampled_from([0, 0, 0, 1, 3]), min_size=1, max_size=8)
"""After each message: how many steps are taken."""

MAX_KEYS = st.integers(1, 5)


@dataclass(slots=True)
class Model:
    """What Redis holds, moved by compare-and-set."""

    watermark: Watermark
    tallies: Counter[Key] = field(default_factory=Counter)
    broken: set[int] = field(default_factory=set)
    completed: int = 0
    entries: int = 0

    def apply(self, before: Watermark, step: Step) -> None:
        assert before == self.watermark, "steps form one chain"
        assert step.after.lsn >= before.lsn
        assert step.after != before
        self.watermark = step.after
        for (counter, scope), buckets in step.deltas.items():
            for bucket, delta in buckets.items():
                assert delta != 0
                self.tallies[counter, scope, bucket] += delta
        self.broken |= step.broken.keys()
        self.completed += step.completed
        self.entries += step.entries


class Run:
    """One process: from where Redis stands until it crashes or has taken everything."""

    def __init__(self, model: Model, history: History, max_keys: int) -> None:
        self.model = model
        self.history = history
        self.batcher = Batcher(model.watermark, max_keys)
        self.assembly = Assembly(NAMESPACE, "outbox", self.batcher, 0)
        self.before = model.watermark

    def take(self) -> bool:
        step = self.batcher.take()
        if step is None:
            return False
        self.model.apply(self.before, step)
        self.before = step.after
        present = Counter({key: value for key, value in self.model.tallies.items() if value})
        assert present == total(rows_up_to(self.history, self.model.watermark)), "the watermark says what is in"
        return True

    def go(self, moments: Sequence[int], steps: int | None = None, start: Lsn | None = None) -> None:
        """Feed the whole stream; stop dead after applying `steps` of them."""
        left = steps if steps is not None else -1
        takes = cycle(moments)
        for item in stream(self.history, self.model.watermark.lsn if start is None else start):
            if isinstance(item, Lsn):
                self.assembly.idle(item)
            else:
                self.assembly.feed(item)
            for _ in range(next(takes)):
                if left == 0 or not self.take():
                    break
                left -= 1
        while left and self.take():
            left -= 1


START = Watermark(Lsn(50))


@given(histories(), MAX_KEYS, MOMENTS)
def test_all_steps_together_hold_every_delta_once(history: History, max_keys: int, moments: list[int]) -> None:
    run = Run(Model(START), history, max_keys)
    run.go(moments)

    assert run.model.watermark.partial is None
    assert run.model.watermark.lsn >= max((t.end_lsn for t in history), default=Lsn(0))
    assert run.model.completed == len(history)
    own = [row for t in history for row in t.own_rows]
    assert run.model.entries == sum(len(entry) == 4 for row in own for entry in row.entries)
    assert run.model.broken == {entry[0] for row in own for entry in row.entries if len(entry) == 3}
    assert run.assembly.foreign_rows == sum(row.foreign for t in history for row in t.rows)
    assert run.batcher.ready_cost == run.batcher._held_cost == 0
    assert run.batcher.oldest_commit_time is None


@given(
    histories(),
    st.lists(st.tuples(st.integers(0, 6), MAX_KEYS, MOMENTS, st.integers(0, 60)), max_size=4),
    MAX_KEYS,
)
@settings(max_examples=200)
def test_crashes_at_any_step_leave_every_delta_applied_once(
    history: History, crashes: list[tuple[int, int, list[int], int]], max_keys: int
) -> None:
    model = Model(START)
    for steps, crashing_max_keys, moments, behind in crashes:
        # The slot is never ahead of the watermark, and after a crash of the server it may be well behind.
        run = Run(model, history, crashing_max_keys)
        run.go(moments, steps=steps, start=Lsn(max(0, model.watermark.lsn - behind)))
        run.batcher.take()  # taken, but Redis was never told
    Run(model, history, max_keys).go([1])

    present = Counter({key: value for key, value in model.tallies.items() if value})
    assert present == total([row for t in history for row in t.own_rows])
    assert model.completed == len(history)
    assert model.watermark.partial is None


@given(histories(), MAX_KEYS, MOMENTS)
def test_a_step_holds_at_most_its_limit_and_one_row_more(history: History, max_keys: int, moments: list[int]) -> None:
    batcher = Batcher(START, max_keys)
    assembly = Assembly(NAMESPACE, "outbox", batcher, 0)
    widest = max((len(row.entries) for t in history for row in t.rows), default=0)
    for item in stream(history, START.lsn):
        if isinstance(item, Lsn):
            assembly.idle(item)
        else:
            assembly.feed(item)
        assert batcher.ready_cost >= 0
    while (step := batcher.take()) is not None:
        assert sum(map(len, step.deltas.values())) <= max_keys + widest
        assert step.cost <= max_keys + widest * (1 + SCOPE_COST)
    assert batcher.ready_cost == 0


def filled(batcher: Batcher, *transactions: tuple[int, int, int, list[bytes]]) -> Batcher:
    for commit, end, xid, rows in transactions:
        batcher.begin(Lsn(commit), float(commit), xid & 0xFFFFFFFF)
        for row in rows:
            batcher.row(xid, row)
        batcher.commit(Lsn(end))
    return batcher


ROW = b'[[1,"-","x",1]]'
TWO = b'[[1,"-","x",1],[1,"-","y",1]]'


def test_transactions_that_wait_are_folded_into_one_step() -> None:
    batcher = filled(Batcher(START, 100), (60, 61, 7, [ROW]), (61, 62, 8, [ROW, ROW]))
    step = batcher.take()
    assert step is not None
    assert (step.after, step.completed, step.commit_time) == (Watermark(Lsn(62)), 2, 60.0)
    assert step.deltas == {(1, "-"): {"x": 3}}
    assert [(t.xid, t.end_lsn, t.deltas) for t in step.transactions] == [
        (7, Lsn(61), {(1, "-"): {"x": 1}}),
        (8, Lsn(62), {(1, "-"): {"x": 2}}),
    ]
    assert batcher.take() is None


def test_a_transaction_at_rest_is_a_step_by_itself() -> None:
    batcher = Batcher(START, 100)
    for commit in (60, 70):
        step = filled(batcher, (commit, commit + 1, commit, [ROW])).take()
        assert step is not None
        assert step.completed == 1


def test_a_large_transaction_is_applied_while_it_still_arrives() -> None:
    batcher = Batcher(START, 2 + SCOPE_COST)
    batcher.begin(Lsn(60), 1.0, 7)
    for number in range(4):
        batcher.row(7, f'[[1,"-","{number}",1]]'.encode())
    step = batcher.take()
    assert step is not None
    assert step.after == Watermark(Lsn(50), Partial(7, 2))
    assert step.transactions[0].deltas is None, "too many to keep"
    assert batcher.take() is None, "what is still arriving is not taken"


def test_the_parts_of_a_transaction_count_as_applied_where_their_watermark_stands() -> None:
    batcher = Batcher(START, 1)
    batcher.begin(Lsn(60), 1.0, 7)
    batcher.row(7, ROW)
    batcher.row(7, ROW)
    step = batcher.take()
    assert step is not None
    assert step.transactions[0].end_lsn <= step.after.lsn


def test_an_idle_position_waits_for_the_transactions_before_it() -> None:
    batcher = filled(Batcher(START, 100), (60, 61, 7, [ROW]))
    batcher.idle(Lsn(75))
    step = batcher.take()
    assert step is not None
    assert step.after == Watermark(Lsn(75))
    assert step.deltas
    assert batcher.take() is None


def test_an_idle_position_inside_a_transaction_changes_nothing() -> None:
    batcher = Batcher(START, 100)
    batcher.begin(Lsn(60), 1.0, 7)
    batcher.idle(Lsn(75))
    assert batcher.take() is None
    batcher.commit(Lsn(61))
    step = batcher.take()
    assert step is not None
    assert step.after == Watermark(Lsn(61))


def test_an_idle_position_does_not_pass_a_half_applied_transaction() -> None:
    batcher = Batcher(Watermark(Lsn(50), Partial(7, 1)), 100)
    batcher.idle(Lsn(75))
    assert batcher.take() is None


def test_another_transaction_after_a_half_applied_one_needs_a_reseed() -> None:
    batcher = Batcher(Watermark(Lsn(50), Partial(7, 1)), 100)
    with pytest.raises(ReseedNeededError, match=r"transaction 7 is half applied \(1 rows\), but transaction 8"):
        batcher.begin(Lsn(60), 1.0, 8)


def test_a_half_applied_transaction_that_got_shorter_needs_a_reseed() -> None:
    batcher = Batcher(Watermark(Lsn(50), Partial(7, 2)), 100)
    batcher.begin(Lsn(60), 1.0, 7)
    batcher.row(7, ROW)
    with pytest.raises(ReseedNeededError, match=r"has 1 rows, 2 were applied"):
        batcher.commit(Lsn(61))


def test_a_commit_that_ends_before_its_predecessor_changes_nothing() -> None:
    batcher = filled(Batcher(START, 100), (60, 65, 7, [ROW]))
    batcher.begin(Lsn(61), 1.0, 8)
    batcher.row(8, TWO)
    for end in (64, 65):
        with pytest.raises(ProtocolError, match="not after 0/41 of its predecessor"):
            batcher.commit(Lsn(end))
    batcher.commit(Lsn(66))
    step = batcher.take()
    assert step is not None
    assert step.deltas == {(1, "-"): {"x": 2, "y": 1}}


def test_rows_and_commits_outside_a_transaction_are_errors() -> None:
    batcher = Batcher(START, 100)
    with pytest.raises(ProtocolError, match="row outside a transaction"):
        batcher.row(7, ROW)
    with pytest.raises(ProtocolError, match="outside a transaction"):
        batcher.commit(Lsn(61))


def waiting_since(batcher: Batcher) -> float | None:
    return batcher.oldest_commit_time


def test_what_waits_longest_says_how_old_the_backlog_is() -> None:
    batcher = Batcher(START, 1)
    assert waiting_since(batcher) is None
    batcher.begin(Lsn(60), 60.0, 7)
    assert waiting_since(batcher) == 60.0
    batcher.row(7, ROW)
    batcher.commit(Lsn(61))
    filled(batcher, (61, 62, 8, [ROW]))
    assert waiting_since(batcher) == 60.0
    batcher.take()
    assert waiting_since(batcher) == 61.0
    batcher.take()
    assert waiting_since(batcher) is None


def test_a_notice_does_not_change_the_identifier_that_a_row_told() -> None:
    batcher = Batcher(START, 100)
    batcher.begin(Lsn(60), 1.0, 7)
    batcher.row(7, ROW)
    batcher.loss(99, Loss((1,), "55P03"))
    batcher.commit(Lsn(61))
    step = batcher.take()
    assert step is not None
    assert [t.xid for t in step.transactions] == [7]


def test_rows_that_are_alike_count_each_time_and_in_their_own_step() -> None:
    batcher = Batcher(Watermark(Lsn(0)), 100)
    text = b'[[1,"-","a",1],[1,"-","b",-1]]'
    for number in range(1, 7):
        assert batcher.whole(Lsn(10 * number), 0.0, number, text, Lsn(10 * number + 5))
        if number % 3 == 0:
            step = batcher.take()
            assert step is not None
            assert step.deltas == {(1, "-"): {"a": 3, "b": -3}}
            assert [transaction.deltas for transaction in step.transactions] == [{(1, "-"): {"a": 1, "b": -1}}] * 3


def test_transactions_with_the_same_keys_share_a_step_that_costs_as_much_as_one_of_them() -> None:
    batcher = Batcher(Watermark(Lsn(0)), 10)
    alike = b'[[1,"-","a",1],[1,"-","b",-1]]'
    for number in range(1, MOST_TOGETHER * 2 + 2):
        assert batcher.whole(Lsn(10 * number), 0.0, number, alike, Lsn(10 * number + 5))
    first, second = batcher.take(), batcher.take()
    assert first is not None
    assert second is not None
    # Each costs 5, together as much: but a step keeps no more transactions than four times 10 have room for.
    assert (first.completed, first.deltas) == (8, {(1, "-"): {"a": 8, "b": -8}})
    assert (first.cost, second.completed, second.after) == (40, 1, Watermark(Lsn(95)))


def test_a_step_of_transactions_with_other_keys_stays_within_its_cost() -> None:
    batcher = Batcher(Watermark(Lsn(0)), 10)
    for number in range(1, 6):
        text = b'[[1,"%d","a",1]]' % number
        assert batcher.whole(Lsn(10 * number), 0.0, number, text, Lsn(10 * number + 5))
    completed = []
    while step := batcher.take():
        completed.append(step.completed)
    assert completed == [2, 2, 1]
