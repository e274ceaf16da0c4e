"""What a read brought, taken in one go: the same steps and the same errors as message by message."""

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc_counter.core import intake
from cdc_counter.core.assembly import Assembly
from cdc_counter.core.batch import Batcher, Step
from cdc_counter.core.frames import postgres_to_unix
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.errors import CdcCounterError

OUTBOX = 9
OTHER = 10


def frame(message: bytes, sent: int = 7) -> bytes:
    return struct.pack("!cQQq", b"w", 0, 0, sent) + message


def keepalive(wal_end: int, reply: bool) -> bytes:
    return struct.pack("!cQqB", b"k", wal_end, 8, reply)


def begin(lsn: int, xid: int, time: int = 5_000_000) -> bytes:
    return frame(b"B" + struct.pack("!QqI", lsn, time, xid))


def commit(lsn: int, end: int) -> bytes:
    return frame(b"C" + struct.pack("!BQQq", 0, lsn, end, 0))


def relation(oid: int = OUTBOX, name: bytes = b"outbox") -> bytes:
    columns = [b"\0" + column + b"\0" + struct.pack("!Ii", 1, -1) for column in (b"part", b"xid", b"deltas")]
    return frame(b"R" + struct.pack("!I", oid) + b"s\0" + name + b"\0d" + struct.pack("!H", 3) + b"".join(columns))


def row(xid: bytes | None, deltas: bytes | None, oid: int = OUTBOX, part: bytes = b"3") -> bytes:
    fields = [b"n" if value is None else b"t" + struct.pack("!i", len(value)) + value for value in (part, xid, deltas)]
    return frame(b"I" + struct.pack("!IcH", oid, b"N", 3) + b"".join(fields))


def outcome(reads: Sequence[Sequence[bytes]], start: Watermark) -> tuple[list[Step], Any]:
    """Return the steps that come of some reads, and the rest of what can be seen from outside."""
    batcher = Batcher(start, max_cost=12)
    assembly = Assembly("s", "outbox", batcher, near=1)
    error, heard = "", None
    try:
        for payloads in reads:
            heard = intake.take(payloads, assembly)
    except CdcCounterError as raised:
        error = type(raised).__name__
    # A session ends with an error: what it has opened then is not looked at any more.
    rest = None if error else (batcher.oldest_commit_time, batcher.ready_cost, heard and heard.sent_at)
    steps = []
    while (step := batcher.take()) is not None:
        steps.append(step)
    seen = (error, assembly.received, assembly.foreign_rows, rest)
    return steps, seen


@st.composite
def transactions(draw: st.DrawFn) -> list[bytes]:
    """Make up a stream, mostly of transactions of one row."""
    payloads = [relation(), relation(OTHER, b"outbox_1")]
    lsn = draw(st.integers(80, 110))
    for xid in range(1, draw(st.integers(1, 8))):
        lsn += draw(st.sampled_from([0, 10, 10, 10]))
        rows = draw(st.sampled_from([1, 1, 1, 1, 0, 2, 5]))
        payloads.append(begin(lsn, xid))
        for number in range(rows):
            carried = draw(st.sampled_from([xid, xid, xid, xid, xid + 1, 2**32 + xid]))
            entries = draw(
                st.sampled_from([b'[[1,"a","b",1]]', b'[[1,"a","b",-1],[2,"-","c",2]]', b"[]", b'[[1,"x","y"]]'])
            )
            payloads.append(row(b"%d" % carried, entries.replace(b'"b"', b'"%d"' % number)))
        payloads.append(commit(lsn, lsn + 5))
        lsn += 5
        if draw(st.booleans()):
            payloads.append(keepalive(lsn, draw(st.booleans())))
    return payloads


STARTS = st.sampled_from([Watermark(Lsn(70)), Watermark(Lsn(115)), Watermark(Lsn(70), Partial(1, 1))])


@st.composite
def runs(draw: st.DrawFn) -> list[bytes]:
    """Make up a stream of transactions of one row, most of which can be taken together."""
    kinds = draw(st.lists(st.sampled_from([*range(7), *range(4)]), min_size=1, max_size=40))
    payloads = [relation()]
    first = draw(st.sampled_from([1, 90, 2**32 - 10]))
    for xid, kind in enumerate(kinds, first):
        lsn = 100 + 10 * (xid - first)
        text = TEXTS[kind % len(TEXTS)]
        written = row(b"%d" % xid, text, part=b"4" if kind == 3 else b"3")
        rows = [written, written] if kind == 5 else [written]
        payloads += [begin(lsn, xid % 2**32), *rows, commit(lsn, lsn + 5)]
        if kind == 6:
            payloads += [keepalive(lsn + 5, reply=True), relation()]
    return payloads


TEXTS = (
    b'[[1,"a","b",1]]',
    b'[[1,"a","c",-1],[2,"-","c",2]]',
    b"[]",
    b'[[1,"a","%s",1]]' % (b"k" * 300),
    b'[[1,"x","y"],[2,"a","a",1],[2,"a","a",1]]',
    b'[[1,"a","b",-1]]',
    b'[[2,"-","c",18446744073709551616]]',
    b"[[1,2]]",
)


@given(runs(), STARTS, st.integers(1, 130))
def test_however_a_stream_is_cut_into_reads_the_same_comes_of_it(
    payloads: list[bytes], start: Watermark, length: int
) -> None:
    reads = [payloads[at : at + length] for at in range(0, len(payloads), length)]
    assert outcome(reads, start) == outcome([[payload] for payload in payloads], start)


@given(st.data())
def test_damage_among_many_alike_fails_as_message_by_message(data: st.DataObject) -> None:
    payloads = [relation()]
    for xid in range(101, 121):
        payloads += [begin(10 * xid, xid), row(b"%d" % xid, b'[[1,"a","b",1]]'), commit(10 * xid, 10 * xid + 5)]
    at = data.draw(st.integers(1, len(payloads) - 1))
    damaged = bytearray(payloads[at])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    payloads[at] = bytes(damaged)
    start = Watermark(Lsn(70))
    assert outcome([payloads], start) == outcome([[payload] for payload in payloads], start)


@given(transactions(), STARTS)
def test_read_is_taken_as_message_by_message(payloads: list[bytes], start: Watermark) -> None:
    assert outcome([payloads], start) == outcome([[payload] for payload in payloads], start)


@given(transactions(), STARTS, st.data())
def test_damaged_read_fails_as_message_by_message(payloads: list[bytes], start: Watermark, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(payloads) - 1))
    damaged = bytearray(payloads[at])
    match data.draw(st.sampled_from(["cut", "longer", "byte", "gone"])):
        case "cut":
            del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
        case "longer":
            damaged += b"\0"
        case "byte":
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        case _:
            damaged = bytearray(payloads.pop(at)) if len(payloads) > 1 else damaged
            at = min(at, len(payloads) - 1)
            damaged = bytearray(payloads[at])
    payloads[at] = bytes(damaged)
    assert outcome([payloads], start) == outcome([[payload] for payload in payloads], start)


@example(None, b"[]")
@example(b"1", None)
@example(b"x1", b"[]")
@example(b"9" * 30, b"[]")
@given(st.none() | st.binary(max_size=3), st.none() | st.binary(max_size=3))
def test_strange_row_fails_as_message_by_message(xid: bytes | None, deltas: bytes | None) -> None:
    payloads = [relation(), begin(100, 1), row(xid, deltas), commit(100, 110)]
    start = Watermark(Lsn(70))
    assert outcome([payloads], start) == outcome([[payload] for payload in payloads], start)


def test_common_transaction_is_one_step_of_one_row() -> None:
    steps, (error, received, *_) = outcome(
        [[relation(), begin(100, 1), row(b"4294967297", b'[[1,"a","b",3]]'), commit(100, 110)]], Watermark(Lsn(70))
    )
    assert (error, received) == ("", 110)
    assert [(step.after.lsn, step.deltas, step.completed, step.entries) for step in steps] == [
        (110, {(1, "a"): {"b": 3}}, 1, 1)
    ]
    assert [transaction.xid for transaction in steps[0].transactions] == [2**32 + 1]


def test_request_for_an_answer_is_heard_wherever_it_stands_in_a_read() -> None:
    assembly = Assembly("s", "outbox", Batcher(Watermark(Lsn(1)), 10), near=1)
    heard = intake.take([relation(), keepalive(5, True), begin(10, 1), row(b"1", b"[]"), commit(10, 20)], assembly)
    assert heard.reply_requested
    assert not intake.take([keepalive(30, False)], assembly).reply_requested
    heard = intake.take([keepalive(30, True), *run(100)], assembly)
    assert heard == intake.Heard(postgres_to_unix(7), reply_requested=True)


def test_steps_of_a_run_know_when_their_oldest_was_committed() -> None:
    batcher = Batcher(Watermark(Lsn(1)), 8)
    assembly = Assembly("s", "outbox", batcher, near=1)
    texts = [b'[[1,"a","%d",1]]' % number for number in range(20)]
    payloads = [relation()]
    for number, text in enumerate(texts, start=100):
        payloads += [
            begin(10 * number, number, time=number * 1_000_000),
            row(b"%d" % number, text),
            commit(10 * number, 10 * number + 5),
        ]
    intake.take(payloads, assembly)
    steps = []
    while (step := batcher.take()) is not None:
        steps.append((step.commit_time, step.transactions[0].xid))
    assert len(steps) > 2
    assert steps == [(postgres_to_unix(xid * 1_000_000), xid) for _, xid in steps]


def run(first: int, count: int = 10, near: int = 0) -> list[bytes]:
    """Make up transactions that can be taken together; the number says identifier and position."""
    payloads = []
    for number in range(first, first + count):
        payloads += [
            begin(10 * number, number),
            row(b"%d" % (near + number), TEXTS[0]),
            commit(10 * number, 10 * number + 5),
        ]
    return payloads


def swapped(payload: bytes) -> bytes:
    """Exchange the names of the last two columns of a description."""
    return payload.replace(b"xid", b"?").replace(b"deltas", b"xid").replace(b"?", b"deltas")


LONG = b'[[1,"a","%s",1]]' % (b"b" * 1_000)
NOTICE = frame(b"M" + struct.pack("!BQ", 1, 0) + b'"s"."outbox"\0' + struct.pack("!i", 7) + b"55P03 1")


@pytest.mark.parametrize(
    "reads",
    [
        [[*run(100), begin(2_000, 110), row(b"110", b"[]"), commit(2_000, 1_999), *run(300)]],
        [[*run(100), begin(60, 110), row(b"110", TEXTS[0]), commit(60, 2_000), *run(300)]],
        [run(200), run(100)],
        [run(100), run(109)],
        [run(100), [swapped(relation())], run(110)],
        [run(100, near=2**32), [begin(2_000, 200), NOTICE, commit(2_000, 2_005)]],
        [run(100), [begin(2_000, 200)], run(300)],
        [[*run(100), begin(1_100, 110), row(b"110", LONG), commit(1_100, 1_105), *run(111)]],
    ],
    ids=["ends before it starts", "seen", "older", "the last again", "other columns", "loss", "inside another", "long"],
)
def test_what_does_not_fit_beside_others_comes_to_the_same(reads: list[list[bytes]]) -> None:
    start = Watermark(Lsn(70))
    reads = [[relation()], *reads]
    assert outcome(reads, start) == outcome([[payload] for payloads in reads for payload in payloads], start)
