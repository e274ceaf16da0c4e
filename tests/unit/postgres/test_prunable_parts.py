"""Which partitions of the ring may be emptied, for every minute and every age."""

import pytest

from cdc_counter.postgres.janitor import prunable_parts


@pytest.mark.parametrize("keep_hours", range(1, 7))
def test_rows_younger_than_the_kept_age_are_never_in_a_prunable_partition(keep_hours: int) -> None:
    for minute in range(0, 48 * 60, 7):
        now = 1_800_000_000.0 + minute * 60
        kept = {int((now - age) // 3600) % 8 for age in range(0, keep_hours * 3600 + 1, 600)}
        assert not kept & set(prunable_parts(now, keep_hours))


@pytest.mark.parametrize("keep_hours", range(1, 7))
def test_partition_about_to_be_written_is_not_prunable(keep_hours: int) -> None:
    for second in range(3300, 3600, 10):
        now = 500_000 * 3600.0 + second
        assert int((now + 300) // 3600) % 8 not in set(prunable_parts(now, keep_hours))


@pytest.mark.parametrize("keep_hours", range(1, 7))
def test_every_partition_becomes_prunable_once_between_two_turns(keep_hours: int) -> None:
    for part in range(8):
        hours = [part in set(prunable_parts((800 + hour) * 3600.0 + 60, keep_hours)) for hour in range(8)]
        assert any(hours)
