"""The packed deltas of one firing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.outbox import Fold, Folded, without_zeros
from cdc_counter.errors import ProtocolError

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_entries = st.tuples(
    st.integers(0, 2**31), _texts, _texts, st.one_of(st.integers(-9, 9), st.integers(-(10**30), 10**30))
)


@given(st.lists(_entries, max_size=10), st.booleans())
def test_deltas_are_exact_beyond_64_bits_and_keys_are_kept_as_they_are(
    entries: list[tuple[int, str, str, int]], ascii_only: bool
) -> None:
    fold = Fold()
    fold.add_row(json.dumps(entries, ensure_ascii=ascii_only).encode())
    expected: dict[tuple[int, str, str], int] = {}
    for counter, scope, bucket, delta in entries:
        expected[counter, scope, bucket] = expected.get((counter, scope, bucket), 0) + delta
    assert {(c, s, b): d for (c, s), buckets in fold.deltas.items() for b, d in buckets.items()} == expected
    assert fold.keys == len(expected)
    assert fold.entries == len(entries)


@given(st.lists(st.lists(_entries, max_size=5), max_size=5))
def test_folds_add_up_and_leave_what_is_added_unchanged(rows: list[list[tuple[int, str, str, int]]]) -> None:
    whole, parts = Fold(), Fold()
    for row in rows:
        text = json.dumps(row).encode()
        whole.add_row(text)
        part = Fold()
        part.add_row(text)
        before = json.dumps([[*key, buckets] for key, buckets in part.deltas.items()])
        parts.add(part)
        parts.add(Fold())
        assert json.dumps([[*key, buckets] for key, buckets in part.deltas.items()]) == before
    assert (parts.deltas, parts.entries, parts.keys) == (whole.deltas, whole.entries, whole.keys)


@given(st.lists(st.lists(_entries, max_size=4).map(lambda row: json.dumps(row).encode()), max_size=5))
def test_rows_added_together_come_to_the_same_as_one_by_one(texts: list[bytes]) -> None:
    texts += [b'[[7,"22003","first"]]', *texts, b'[[7,"22003","second"]]']
    together, one_by_one = Fold(), Fold()
    together.add_rows([Folded.of(text) for text in texts])
    for text in texts:
        one_by_one.add_row(text)
    assert together == one_by_one


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"null", b"[1]", b"[[]]", b"[[1]]", b"[[1,2,3,4]]", b'[["1","a","b",1]]', b'[[1,"a","b","1"]]',
        b'[[1,"a","b",1.5]]', b'[[1,"a","b",1e3]]', b'[[1,"a","b",true]]', b'[[true,"a","b",1]]', b'[[1,null,"b",1]]',
        b'[[1,"a","b",1,2]]', b'[["x","22012","m"]]', b'[[1,"a","b",1]', b"\xff", b'[[1,"a","b",NaN]]',
        b'[[1,"a","b",1e999]]', b"[" * 2000, b'[[1,"a","b",' + b"9" * 5000 + b"]]", b'["abcd"]',
        b"[[" + b"[" * 1000 + b"]" * 1000 + b',"a",1.5]]',
    ],
)  # fmt: skip
def test_anything_else_is_a_typed_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        Fold().add_row(text)


@given(st.binary(max_size=60))
def test_random_bytes_are_a_row_or_a_typed_error(data: bytes) -> None:
    try:
        Fold().add_row(data)
    except ProtocolError:
        return
    assert json.loads(data) is not None


def test_the_first_reason_of_a_broken_capture_is_kept() -> None:
    fold = Fold()
    fold.add_row(b'[[1,"22012","division by zero"],[1,"22003","out of range"],[2,"x","y",1]]')
    other = Fold()
    other.add_row(b'[[1,"XX000","later"],[3,"22012","m"]]')
    fold.add(other)
    assert fold.broken == {1: "22012: division by zero", 3: "22012: m"}


def test_a_reason_that_is_no_text_is_refused_however_deep_it_is() -> None:
    for reason in (b"1", b"null", b"[" * 900 + b"]" * 900):
        with pytest.raises(ProtocolError):
            Fold().add_row(b'[[1,"22003",' + reason + b"]]")


def test_a_heartbeat_holds_nothing() -> None:
    fold = Fold()
    fold.add_row(b"[]")
    assert (fold.deltas, fold.broken, fold.entries) == ({}, {}, 0)


def test_what_comes_to_zero_is_left_out() -> None:
    assert without_zeros({(1, "a"): {"x": 0, "y": 1}, (2, "a"): {"x": 0}}) == {(1, "a"): {"y": 1}}
