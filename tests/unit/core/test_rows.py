"""Rows taken apart together: only those whose head is known, and a head is forgotten with the shape it had."""

from cdc_counter.core.rows import Rows, Shape
from tests.unit.core.test_intake import OTHER, OUTBOX, frame, row

SHAPE = Shape(xid=1, deltas=2, width=3)


def test_rows_are_read_whatever_their_partition_and_the_length_of_their_deltas() -> None:
    rows = Rows({OUTBOX: SHAPE})
    assert rows.read([row(b"17", b"[]"), row(b"18", b'[[1,"a","b",1]]')]) == ([17, 18], [b"[]", b'[[1,"a","b",1]]'])
    assert rows.read([row(b"19", b"[]"), row(b"20", b"[]", part=b"4")]) == ([19, 20], [b"[]", b"[]"])
    assert rows.read([row(b"100", b"[]"), row(b"101", b"[]")]) == ([100, 101], [b"[]", b"[]"])


def test_identifiers_of_several_lengths_are_not_read_together() -> None:
    rows = Rows({OUTBOX: SHAPE})
    assert rows.read([row(b"9", b"[]"), row(b"10", b"[]")]) is None
    assert rows.read([row(b"10", b"[]"), row(b"11", b"[]")]) == ([10, 11], [b"[]", b"[]"])


def test_rows_of_a_relation_that_is_not_known_or_of_another_shape_are_not_read() -> None:
    shapes = {OUTBOX: SHAPE}
    rows = Rows(shapes)
    assert rows.read([row(b"17", b"[]", oid=OTHER)]) is None
    assert rows.read([row(b"17", b"[]")]) is not None
    shapes[OUTBOX] = Shape(xid=2, deltas=1, width=3)
    rows.forget()
    assert rows.read([row(b"17", b"[]")]) is None


def test_a_message_that_looks_like_a_row_is_none() -> None:
    rows = Rows({OUTBOX: SHAPE})
    assert rows.read([frame(b"M" + row(b"17", b"[]")[26:])]) is None


def test_a_row_without_identifier_or_deltas_is_not_read() -> None:
    rows = Rows({OUTBOX: SHAPE})
    for xid, deltas in ((None, b"[]"), (b"17", None), (b"1x", b"[]"), (b"9" * 30, b"[]"), (b"", b"[]")):
        assert rows.read([row(xid, deltas)]) is None
    assert rows.read([row(b"17", b"[]"), row(b"1x", b"[]")]) is None
    assert rows.read([b"w"]) is None


def test_deltas_that_are_longer_or_shorter_than_they_say_are_not_read() -> None:
    rows = Rows({OUTBOX: SHAPE})
    assert rows.read([row(b"17", b"[]")]) is not None
    for wrong in (row(b"18", b"[]") + b" ", row(b"18", b"[]")[:-1]):
        assert rows.read([row(b"17", b"[]"), wrong]) is None
