"""When a slot that can't be decoded is given up."""

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.stuck import MOST_FAILURES, Stuck
from cdc_counter.core.watermark import Partial, Watermark

HERE, FURTHER = Watermark(Lsn(10)), Watermark(Lsn(20))
WITHIN = Watermark(Lsn(10), Partial(7, 3))


def test_a_place_that_fails_again_and_again_is_given_up() -> None:
    stuck = Stuck()
    assert [stuck.failed(HERE) for _ in range(MOST_FAILURES)] == [False] * (MOST_FAILURES - 1) + [True]
    assert stuck.failed(HERE), "and stays so until something moves"


def test_whatever_comes_further_is_not_stuck() -> None:
    stuck = Stuck()
    for watermark in (HERE, WITHIN, FURTHER, HERE) * MOST_FAILURES:
        assert not stuck.failed(watermark)
