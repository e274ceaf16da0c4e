"""The high half of a transaction identifier, from any other that was given out lately."""

from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.xid import XID_LOW, completed


@given(st.integers(0, 2**63), st.integers(-(2**31) + 1, 2**31 - 1))
def test_an_identifier_is_found_again_from_any_within_two_thousand_million(xid: int, away: int) -> None:
    assert completed(xid & XID_LOW, max(xid + away, 0)) == xid


@given(st.integers(0, XID_LOW), st.integers(0, 2**64))
def test_the_low_half_stays_whatever_it_is_compared_with(low: int, near: int) -> None:
    full = completed(low, near)
    assert full >= 0
    assert full & XID_LOW == low
