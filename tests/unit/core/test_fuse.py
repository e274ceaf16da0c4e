"""When the slot has to go."""

import pytest

from cdc_counter.core.fuse import Fuse

MB = 1 << 20
HOUR = 3600.0

TABLE: dict[str, tuple[Fuse, int | None, float, str]] = {
    "no slot": (Fuse(1, 1), None, 9 * HOUR, ""),
    "at the limit": (Fuse(100), 100 * MB, 0, ""),
    "above the limit": (Fuse(100), 100 * MB + 1, 0, "keep 100 MB of WAL, the fuse is 100 MB"),
    "no limit": (Fuse(), 1 << 50, 1e9, ""),
    "stood still for too long": (Fuse(0, 2), 16 * MB, 2.5 * HOUR, "not moved for 2.5 h, the fuse is 2 h"),
    "stood still for not so long": (Fuse(0, 2), 16 * MB, 2 * HOUR, ""),
    "stood still and keeps nothing": (Fuse(0, 2), 16 * MB - 1, 9 * HOUR, ""),
}


@pytest.mark.parametrize("row", TABLE)
def test_a_slot_goes_above_either_limit_only(row: str) -> None:
    fuse, retained, unmoved, words = TABLE[row]
    reason = fuse.blown(retained, unmoved)
    assert bool(reason) == bool(words)
    assert words in reason


@pytest.mark.parametrize(("whole", "half"), [(0, 0), (1, 1), (2, 1), (3, 2), (16384, 8192)])
def test_half_of_a_limit_is_a_limit(whole: int, half: int) -> None:
    assert Fuse(whole, 2).halved == Fuse(half)
