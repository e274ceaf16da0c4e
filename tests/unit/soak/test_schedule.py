"""Which fault comes when."""

from itertools import islice

import pytest

from cdc_counter.soak.schedule import GROUPS, REBUILDING, FaultKind, kinds_of, schedule


def test_same_seed_makes_the_same_faults() -> None:
    assert list(islice(schedule(tuple(FaultKind), 5, 7.0), 60)) == list(islice(schedule(tuple(FaultKind), 5, 7.0), 60))
    assert list(islice(schedule(tuple(FaultKind), 5, 7.0), 60)) != list(islice(schedule(tuple(FaultKind), 6, 7.0), 60))


def test_every_kind_comes_before_one_comes_again() -> None:
    coming = (fault.kind for together in schedule(tuple(FaultKind), 1, 7.0) for fault in together)
    for _ in range(5):
        assert set(islice(coming, len(FaultKind))) == set(FaultKind)


def test_some_faults_come_together_and_most_alone() -> None:
    numbers = [len(together) for together in islice(schedule(tuple(FaultKind), 1, 7.0), 500)]
    assert set(numbers) == {1, 2}
    assert numbers.count(1) > 2 * numbers.count(2)


def test_pauses_have_the_mean_that_was_asked_for() -> None:
    pauses = [together[0].pause for together in islice(schedule(tuple(FaultKind), 1, 7.0), 2000)]
    assert sum(pauses) / len(pauses) == pytest.approx(7.0, rel=0.05)


def test_no_kinds_make_no_faults() -> None:
    assert list(schedule((), 1, 7.0)) == []


def test_there_are_at_least_twelve_kinds_that_need_no_rebuild() -> None:
    assert len(GROUPS["passing"]) >= 12


def test_kinds_and_groups_are_read_from_a_list() -> None:
    assert kinds_of("rebuilding, daemon_kill") == REBUILDING | {FaultKind.DAEMON_KILL}
    assert kinds_of("none") == frozenset()


def test_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="earthquake"):
        kinds_of("daemon_kill,earthquake")
