"""What verifying finds, as it travels; what it proves; and which counter comes next."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.drift import KeyDrift
from cdc_counter.core.reading import CounterState, VerifiedAt
from cdc_counter.core.request import (
    Answer,
    Failed,
    Finished,
    Progress,
    Request,
    Wish,
    answer_from_json,
    answer_to_json,
)
from cdc_counter.core.verification import (
    SHOWN,
    LedgerEntry,
    Verdict,
    Verification,
    VerifyReport,
    proof_of,
)
from cdc_counter.core.verifying import LastCheck, Pace, next_due

DRIFT = Verification(
    "open",
    7,
    100.0,
    Verdict.DRIFT,
    at=100.5,
    seconds=0.25,
    lsn="0/1A",
    keys=3,
    drifted=1,
    drifts=(KeyDrift("42", "é", 5, 3),),
)
EQUAL = replace(DRIFT, verdict=Verdict.EQUAL, drifted=0, drifts=())


@pytest.mark.parametrize(
    "answer",
    [DRIFT, EQUAL, replace(EQUAL, scope="42"), Progress("open", "counting", 3, 9), Failed("no", "try", 4), Finished()],
)
def test_every_answer_arrives_as_it_was_sent(answer: Answer) -> None:
    assert answer_from_json(answer_to_json(answer)) == answer


@pytest.mark.parametrize("data", [{}, {"progress": 3}, {"verification": {"counter": "x"}}, {"else": {}}])
def test_foreign_answers_are_refused(data: dict[str, object]) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        answer_from_json(data)


def test_request_arrives_as_it_was_sent() -> None:
    request = Request("ab", Wish.REPAIR, ("open", "closed"), None, "me@here")
    assert Request.from_json(request.to_json()) == request


def test_only_so_many_keys_are_named_and_their_number_is_kept() -> None:
    keys = tuple(KeyDrift("-", str(number), 1, 0) for number in range(SHOWN + 5))
    short = replace(DRIFT, drifts=keys, drifted=len(keys)).shortened()
    assert (short.drifts, short.drifted) == (keys[:SHOWN], SHOWN + 5)


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([Verdict.EQUAL, Verdict.EQUAL], Verdict.EQUAL),
        ([Verdict.EQUAL, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE),
        ([Verdict.INCONCLUSIVE, Verdict.DRIFT, Verdict.EQUAL], Verdict.DRIFT),
    ],
)
def test_drift_in_one_counter_is_drift_and_what_is_open_is_not_equal(verdicts: list[Verdict], whole: Verdict) -> None:
    assert VerifyReport(tuple(replace(EQUAL, verdict=verdict) for verdict in verdicts), {}).verdict is whole


def test_the_report_has_the_difference_and_who_touched_the_key() -> None:
    report = VerifyReport((DRIFT,), {("open", "42", "é"): (LedgerEntry(900, 2),)}).to_json()
    (counter,) = report["counters"]
    assert counter["drifts"] == [{"scope": "42", "bucket": "é", "tally": 5, "truth": 3, "difference": 2}]
    assert counter["ledger"] == [{"scope": "42", "bucket": "é", "transactions": [{"xid": 900, "delta": 2}]}]


RECORD = CounterRecord(7, "open", CounterState.LIVE, scoped=True, since=100.0)


def test_a_verification_proves_the_counter_that_it_compared_since_it_is_what_it_is() -> None:
    assert proof_of(RECORD, EQUAL) == VerifiedAt(100.5, "0/1A")


@pytest.mark.parametrize(
    "last",
    [
        None,
        DRIFT,
        replace(EQUAL, verdict=Verdict.INCONCLUSIVE),
        replace(EQUAL, counter_id=8),
        replace(EQUAL, since=99.0),
    ],
)
def test_anything_else_proves_nothing(last: Verification | None) -> None:
    assert proof_of(RECORD, last) is None


def test_the_counter_that_waited_longest_comes_first_and_a_new_one_at_once() -> None:
    pace = Pace(share=0.5, interval=10)
    last = {"a": LastCheck(100, 0.1), "b": LastCheck(90, 0.1)}
    assert next_due(["a", "b"], last, pace) == ("b", 100)
    assert next_due(["a", "b", "new"], last, pace) == ("new", 0)
    assert next_due([], last, pace) is None


def test_a_counter_whose_recount_takes_long_is_verified_less_often() -> None:
    pace = Pace(share=0.02, interval=60)
    assert pace.due(LastCheck(1000, 0.01), 10) == 1060
    assert pace.due(LastCheck(1000, 6), 10) == 1000 + 3000


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(0.001, 100), min_size=1),
    st.floats(0.01, 1),
)
def test_no_more_than_the_share_of_the_time_is_spent(costs: dict[str, float], share: float) -> None:
    """Each counter's cost over the time from one verification to the next, added up."""
    pace = Pace(share, interval=0)
    spent = sum(cost / (pace.due(LastCheck(0, cost), len(costs))) for cost in costs.values())
    assert spent <= share * 1.0001
