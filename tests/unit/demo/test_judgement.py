"""When the demo may call numbers equal or different."""

from collections.abc import Mapping

import pytest

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import CounterState, Reading
from cdc_counter.demo.actions import BUTTONS, TRAFFIC, Action
from cdc_counter.demo.recount import Verdict, arrange, judge
from cdc_counter.resources import sql_blocks

TRUTH: Mapping[str, Mapping[str, int]] = {"a": {"1": 5}, "b": {"2": 7}}
TABLE = Lsn(100)


def readings(
    a: int = 5, b: int = 7, *, version: int = 100, state: CounterState = CounterState.LIVE
) -> dict[str, Reading]:
    return {
        counter: Reading(counter, "1", {bucket: value}, Lsn(version), "epoch", state, sequence=1)
        for counter, bucket, value in (("a", "1", a), ("b", "2", b))
    }


def test_equal_numbers_are_equal() -> None:
    assert judge(TRUTH, readings(), TABLE) is Verdict.EQUAL


@pytest.mark.parametrize(("a", "b"), [(6, 7), (5, 0)])
def test_a_different_number_at_the_tables_position_is_drift(a: int, b: int) -> None:
    assert judge(TRUTH, readings(a, b), TABLE) is Verdict.DRIFT


def test_a_different_number_before_the_tables_position_is_not_judged() -> None:
    assert judge(TRUTH, readings(a=6, version=99), TABLE) is Verdict.PENDING


@pytest.mark.parametrize("state", [CounterState.SEEDING, CounterState.REBUILDING, CounterState.STALE])
def test_a_counter_that_says_it_is_not_exact_is_not_judged(state: CounterState) -> None:
    assert judge(TRUTH, readings(a=6, state=state), TABLE) is Verdict.PENDING


def test_a_bucket_that_the_table_does_not_have_is_drift() -> None:
    assert judge({**TRUTH, "b": {}}, readings(), TABLE) is Verdict.DRIFT


def test_counters_without_a_row_have_no_buckets() -> None:
    assert arrange([("open_by_tag", "vip", 3)])["open_by_tag"] == {"vip": 3}
    assert arrange([])["open_by_channel"] == {}


@pytest.mark.parametrize("action", [*TRAFFIC, *BUTTONS.values()], ids=lambda action: action.what)
def test_actions_name_statements_that_exist(action: Action) -> None:
    assert set(action.statements) | set(action.undone) <= set(sql_blocks("demo"))
