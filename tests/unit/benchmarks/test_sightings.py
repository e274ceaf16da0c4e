"""From commits and sightings to delays."""

from benchmarks.latency.sightings import Commit, Sighting, delays, percentile

SECOND = 1_000_000_000


def commit(room: int, number: int, returned: float) -> Commit:
    return Commit(room, number, due=0, returned=round(returned * SECOND))


def sighting(room: int, number: int, at: float) -> Sighting:
    return Sighting(room, number, round(at * SECOND))


def test_a_commit_is_seen_with_its_number_or_a_higher_one() -> None:
    commits = [commit(1, 11, 1.0), commit(1, 12, 2.0), commit(1, 13, 3.0)]
    assert delays(commits, [sighting(1, 11, 1.5), sighting(1, 13, 3.25)]) == [0.5, 1.25, 0.25]


def test_the_first_sighting_counts_whatever_order_they_come_in() -> None:
    seen = [sighting(1, 11, 4.0), sighting(1, 10, 1.0), sighting(1, 11, 2.0)]
    assert delays([commit(1, 11, 1.0)], seen) == [1.0]


def test_rooms_are_not_mixed_up_and_what_nobody_saw_is_left_out() -> None:
    commits = [commit(1, 11, 1.0), commit(2, 11, 1.0), commit(2, 12, 1.0)]
    assert delays(commits, [sighting(2, 11, 3.0)]) == [2.0]


def test_a_commit_may_be_seen_before_its_writer_knows() -> None:
    assert delays([commit(1, 11, 1.0)], [sighting(1, 11, 0.5)]) == [-0.5]


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 2.0, 3.0, 3.0]
