"""Collecting seldom."""

import gc

import pytest

from cdc_counter.garbage import rarely_collected


def test_what_was_there_before_is_not_looked_at_again() -> None:
    before = [object()]

    with rarely_collected():
        after = [object()]
        looked_at = {id(each) for each in gc.get_objects()}

    assert id(before) not in looked_at
    assert id(after) in looked_at


def test_new_objects_are_looked_at_in_larger_lots() -> None:
    with rarely_collected():
        assert gc.get_threshold()[0] > 1_000


def test_the_process_is_as_it_was_after_a_failure() -> None:
    thresholds = gc.get_threshold()

    with pytest.raises(ZeroDivisionError), rarely_collected():
        _ = 1 / 0

    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
