"""Messages in any order: an error that changes nothing, or what the history says."""

from collections import Counter
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.assembly import Assembly
from cdc_counter.core.batch import Batcher, Step
from cdc_counter.core.frames import XLogData, parse_frame
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outbox import RETIRED, Deltas, outbox_prefix
from cdc_counter.core.pgoutput import Begin, Commit, Insert, LogicalMessage, Message, Relation, Truncate, parse_message
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.errors import CdcCounterError, ProtocolError, RefusedError
from tests.data.record_pgoutput import load
from tests.unit.core.histories import NAMESPACE, OUTBOX, History, Key, histories, stream, total

ELSEWHERE = Relation(99, "public", "other", ("id",))
NARROW = Relation(OUTBOX.oid, NAMESPACE, "outbox", ("part", "deltas"))

_lsns = st.integers(0, 500).map(Lsn)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Begin, _lsns, st.just(1.0), st.integers(0, 2**32 - 1)),
    st.builds(Commit, _lsns, _lsns, st.just(1.0)),
    st.just(Truncate()),
    st.just(ELSEWHERE),
    st.just(OUTBOX),
    st.builds(
        Insert,
        st.sampled_from([OUTBOX.oid, ELSEWHERE.oid, 5]),
        st.lists(
            st.one_of(st.none(), st.sampled_from([b"0", b"7", b"x", b"[]", b'[[1,"-","x",1]]', b"[", b"9" * 5000]))
        ).map(tuple),
    ),
)


def new(start: int = 50, max_keys: int = 3) -> tuple[Assembly, Batcher]:
    batcher = Batcher(Watermark(Lsn(start)), max_keys)
    return Assembly(NAMESPACE, "outbox", batcher, 0), batcher


def drained(batcher: Batcher) -> Counter[Key]:
    sums: Counter[Key] = Counter()
    while (step := batcher.take()) is not None:
        add(sums, step.deltas)
    return Counter({key: value for key, value in sums.items() if value})


def add(sums: Counter[Key], deltas: Deltas) -> None:
    for (counter, scope), buckets in deltas.items():
        for bucket, delta in buckets.items():
            sums[counter, scope, bucket] += delta


@given(st.lists(MESSAGES, max_size=30))
def test_any_sequence_of_messages_is_taken_or_refused_with_a_typed_error(sequence: list[Message]) -> None:
    assembly, batcher = new()
    received = assembly.received
    for message in sequence:
        try:
            assembly.feed(message)
        except CdcCounterError:
            break
        assert assembly.received >= received
        received = assembly.received
        assert batcher.ready_cost >= 0
    drained(batcher)


def intruders(open_begin: Begin | None) -> list[Message]:
    """Return messages that can't stand here."""
    anywhere: list[Message] = [Truncate(), NARROW, Insert(5, (b"1",)), Insert(ELSEWHERE.oid, (b"1",))]
    if open_begin is None:
        return [*anywhere, Commit(Lsn(1), Lsn(2), 1.0), Insert(OUTBOX.oid, (b"0", b"1", b"[]"))]
    return [
        *anywhere,
        Begin(Lsn(10**6), 1.0, 1),
        Commit(Lsn(open_begin.commit_lsn + 1), Lsn(open_begin.commit_lsn + 2), 1.0),
        Commit(open_begin.commit_lsn, open_begin.commit_lsn, 1.0),
        Insert(OUTBOX.oid, (b"0", b"1")),
        Insert(OUTBOX.oid, (b"0", None, b"[]")),
        Insert(OUTBOX.oid, (b"0", b"1", None)),
        Insert(OUTBOX.oid, (b"0", b"-1", b"[]")),
        Insert(OUTBOX.oid, (b"0", b"9" * 5000, b"[]")),
    ]


@given(histories(), st.lists(st.integers(0, 30), min_size=1))
def test_a_message_that_can_not_stand_where_it_comes_changes_nothing(history: History, choices: list[int]) -> None:
    assembly, batcher = new()
    assembly.feed(ELSEWHERE)
    begin: Begin | None = None
    for number, item in enumerate(stream(history, Lsn(50))):
        candidates = intruders(begin)
        intruder = candidates[choices[number % len(choices)] % len(candidates)]
        with pytest.raises((ProtocolError, RefusedError)):
            assembly.feed(intruder)
        if isinstance(item, Lsn):
            assembly.idle(item)
        else:
            assembly.feed(item)
            begin = item if isinstance(item, Begin) else None if isinstance(item, Commit) else begin
    assert drained(batcher) == total([row for t in history for row in t.own_rows])


@pytest.mark.parametrize("version", [18, 15])
def test_the_recorded_outbox_is_folded(version: int) -> None:
    """The recording leaves one row of NULLs and one of no JSON, which no capture function writes."""
    batcher = Batcher(Watermark(Lsn(0)), 1000)
    assembly = Assembly("rec", "outbox", batcher, 0)
    refused = 0
    for text in load(version)["sessions"]["outbox"]:
        frame = parse_frame(bytes.fromhex(text))
        if not isinstance(frame, XLogData):
            assembly.idle(frame.wal_end)
            continue
        try:
            assembly.feed(parse_message(frame.payload))
        except ProtocolError:
            refused += 1
    assert refused == 2
    sums = drained(batcher)
    assert sums[7, "größe 🐘", "bucket 0"] == -40
    assert sums[2, "-", '[null,"EUR"]'] == 12
    assert (1, "42", "7") not in sums, "one more and one less"
    assert assembly.foreign_rows == 0


@pytest.mark.parametrize("version", [18, 15])
def test_rows_that_come_under_a_leaf_are_refused(version: int) -> None:
    assembly = Assembly("rec", "outbox", Batcher(Watermark(Lsn(0)), 1000), 0)
    refused = 0
    for text in load(version)["sessions"]["leaves"]:
        frame = parse_frame(bytes.fromhex(text))
        if not isinstance(frame, XLogData):
            continue
        message = parse_message(frame.payload)
        if isinstance(message, Insert):
            with pytest.raises(RefusedError, match=r"sends rows of rec\.outbox_[01], not only of rec\.outbox"):
                assembly.feed(message)
            refused += 1
        else:
            assembly.feed(message)
    assert refused == 9


def test_columns_are_found_by_name_wherever_they_stand() -> None:
    assembly, batcher = new()
    assembly.feed(Relation(7, NAMESPACE, "outbox", ("deltas", "remark", "xid")))
    assembly.feed(Begin(Lsn(60), 1.0, 9))
    assembly.feed(Insert(7, (b'[[1,"-","x",5]]', None, b"9")))
    assembly.feed(Commit(Lsn(60), Lsn(61), 1.0))
    assert drained(batcher) == {(1, "-", "x"): 5}


def test_a_row_that_was_copied_back_is_counted_as_foreign_and_not_twice() -> None:
    assembly, batcher = new()
    assembly.feed(OUTBOX)
    assembly.feed(Begin(Lsn(60), 1.0, 9))
    assembly.feed(Insert(OUTBOX.oid, (b"0", b"8", b'[[1,"-","x",5]]')))
    assembly.feed(Insert(OUTBOX.oid, (b"0", str((3 << 32) + 9).encode(), b'[[1,"-","x",2]]')))
    assembly.feed(Commit(Lsn(60), Lsn(61), 1.0))
    assert drained(batcher) == {(1, "-", "x"): 2}
    assert assembly.foreign_rows == 1


PREFIX = outbox_prefix(NAMESPACE, "outbox")
NOTICE = LogicalMessage(PREFIX, b"55P03 1,4")


def test_a_notice_of_loss_breaks_its_counters_and_no_other_message_means_anything() -> None:
    assembly, batcher = new()
    assembly.feed(NOTICE)
    assembly.feed(Begin(Lsn(60), 1.0, 9))
    strange = (b"", b"55P03", b"55P03 ", b"55P03 1,", b"55P03 x", b" 1", b"55P03 1\n", b"55p03 1", b"55P03 99999999999",
               b"55P03 " + b"1," * 100_000 + b"1", b'9 [[2,"-","x",5]]', "55P03 1 für".encode("latin-1"), b"\0" * 9,
               b"[[" + b"[" * 1000 + b"]" * 1000 + b',"a",1.5]]')  # fmt: skip
    for content in strange:
        assembly.feed(LogicalMessage(PREFIX, content))
    assert assembly.strange_notices == len(strange)
    assembly.feed(LogicalMessage("cdc_counter", NOTICE.content))
    assembly.feed(Commit(Lsn(60), Lsn(61), 1.0))
    assert batcher.take() == Step(Watermark(Lsn(61)), transactions=ANY, completed=1, commit_time=1.0)
    assembly.feed(Begin(Lsn(70), 1.0, 9))
    assembly.feed(NOTICE)
    assembly.feed(Commit(Lsn(70), Lsn(71), 1.0))
    step = batcher.take()
    assert step is not None
    assert step.broken == dict.fromkeys((1, 4), "the outbox could not be written (55P03)")
    assert step.deltas == {}
    assert assembly.strange_notices == len(strange)


def test_a_notice_can_not_say_that_a_counter_was_removed() -> None:
    assembly, batcher = new()
    assembly.feed(Begin(Lsn(60), 1.0, 9))
    assembly.feed(LogicalMessage(PREFIX, RETIRED.encode() + b" 1"))
    assembly.feed(Commit(Lsn(60), Lsn(61), 1.0))
    step = batcher.take()
    assert step is not None
    assert not step.broken[1].startswith(RETIRED)


ROW_XID = (3 << 32) + 5
ROW = Insert(OUTBOX.oid, (b"0", str(ROW_XID).encode(), b'[[1,"-","x",1]]'))


@pytest.mark.parametrize("order", [(ROW, NOTICE), (NOTICE, ROW), (NOTICE, ROW, NOTICE)])
def test_no_message_changes_the_transaction_that_rows_tell(order: tuple[Message, ...]) -> None:
    batcher = Batcher(Watermark(Lsn(50)), 100)
    # A reference that is wrong changes nothing, either.
    assembly = Assembly(NAMESPACE, "outbox", batcher, 1 << 40)
    for message in (OUTBOX, Begin(Lsn(60), 1.0, 5), *order, Commit(Lsn(60), Lsn(61), 1.0)):
        assembly.feed(message)
    step = batcher.take()
    assert step is not None
    assert [(t.xid, t.deltas) for t in step.transactions] == [(ROW_XID, {(1, "-"): {"x": 1}})]
    assert set(step.broken) == {1, 4}


def test_a_transaction_of_notices_only_is_known_by_the_identifier_it_has() -> None:
    """Its high bits come from the server, then from the rows of a session that outlasts them."""
    batcher = Batcher(Watermark(Lsn(50)), 100)
    assembly = Assembly(NAMESPACE, "outbox", batcher, (2 << 32) + 20)
    history: list[Message] = [OUTBOX]
    sent: list[tuple[int, Message]] = [(0xFFFFFFF0, NOTICE), (30, NOTICE), (5, ROW), (0xFFFFFFFF, NOTICE)]
    for lsn, (low, message) in enumerate(sent, 60):
        history += [Begin(Lsn(lsn), 1.0, low), message, Commit(Lsn(lsn), Lsn(lsn + 1), 1.0)]
    for message in history:
        assembly.feed(message)
    step = batcher.take()
    assert step is not None
    assert [t.xid for t in step.transactions] == [(2 << 32) - 16, (2 << 32) + 30, ROW_XID, (3 << 32) - 1]


def test_a_half_applied_transaction_goes_on_at_its_row_whatever_notices_it_has() -> None:
    """Notices cut a transaction, too, and must not take the count of its rows back."""
    resumed = Batcher(Watermark(Lsn(50), Partial(ROW_XID, 3)), 2)
    assembly = Assembly(NAMESPACE, "outbox", resumed, ROW_XID)
    for message in (OUTBOX, Begin(Lsn(60), 1.0, 5), NOTICE, ROW, NOTICE, ROW, NOTICE, ROW, NOTICE, NOTICE, ROW,
                    Commit(Lsn(60), Lsn(61), 1.0)):  # fmt: skip
        assembly.feed(message)
    steps = list(iter(resumed.take, None))
    assert all(step.after.partial is None or step.after.partial.rows >= 3 for step in steps)
    sums: Counter[Key] = Counter()
    for step in steps:
        add(sums, step.deltas)
    assert sums == {(1, "-", "x"): 1}
    assert resumed.ready_cost == 0


def test_received_is_an_end_position() -> None:
    assembly, _ = new()
    assembly.feed(Begin(Lsn(60), 1.0, 9))
    assembly.idle(Lsn(59))
    assert assembly.received == 0
    assembly.feed(Commit(Lsn(60), Lsn(65), 1.0))
    assert assembly.received == 65
    assembly.idle(Lsn(70))
    assembly.idle(Lsn(66))
    assert assembly.received == 70
