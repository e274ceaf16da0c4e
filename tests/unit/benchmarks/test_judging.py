"""Targets: judged by the median of the rounds, a ratio round by round, and never guessed."""

import pytest

from benchmarks.figures import OURS, Figures
from benchmarks.targets import Target, Verdict, judge


def figures(*taken: tuple[str, str, list[float]], **conditions: str) -> Figures:
    found = Figures()
    for measure, peer, rounds in taken:
        for value in rounds:
            found.record(measure, peer, "1/s", value, conditions)
    return found


def test_the_median_of_the_rounds_decides() -> None:
    taken = figures(("rate", OURS, [9.0, 11.0, 30.0]))
    assert judge(Target("rate", at_least=11.0), taken).verdict is Verdict.MET
    assert judge(Target("rate", at_least=11.1), taken).verdict is Verdict.MISSED
    assert judge(Target("rate", at_most=11.0), taken).verdict is Verdict.MET
    assert judge(Target("rate", at_most=10.9), taken).verdict is Verdict.MISSED


def test_a_ratio_is_taken_round_by_round() -> None:
    """The peer's slow round is ours too: 1.5 in each, though the medians of both alone would say 1.6."""
    taken = figures(("rate", OURS, [15.0, 150.0, 16.0]), ("rate", "other", [10.0, 100.0, 10.0]))
    found = judge(Target("rate", to="other", at_least=1.5), taken)
    assert found.spread is not None
    assert (found.spread.median, found.spread.low, found.spread.high) == (1.5, 1.5, 1.6)
    assert found.verdict is Verdict.MET


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    taken = figures(("rate", OURS, [1.0]), transport="tcp")
    for target in (
        Target("other", at_most=1),
        Target("rate", to="peer", at_least=1),
        Target("rate", {"transport": "unix"}, at_least=1),
    ):
        assert judge(target, taken).verdict is Verdict.NOT_MEASURED


def test_a_target_that_means_several_figures_is_not_judged() -> None:
    taken = figures(("rate", OURS, [1.0]), transport="tcp") + figures(("rate", OURS, [9.0]), transport="unix")
    found = judge(Target("rate", at_least=1), Figures(taken))
    assert (found.verdict, found.why) == (Verdict.NOT_MEASURED, "2 figures of cdc-counter")


def test_a_target_has_one_bound() -> None:
    with pytest.raises(ValueError, match="only one"):
        Target("rate", at_least=1, at_most=2)
    with pytest.raises(ValueError, match="only one"):
        Target("rate")
