"""When tallies may have been evicted, and when counting them again is of use."""

import pytest

from cdc_counter.core.eviction import Evictions

NO, VOLATILE, ALL = "noeviction", "volatile-lru", "allkeys-lfu"

TABLE: dict[str, tuple[tuple[str, int, str] | None, tuple[str, int, str], str]] = {
    "nothing was noted": (None, ("a", 9, ALL), ""),
    "nothing was evicted": (("a", 3, NO), ("a", 3, NO), ""),
    "it may evict and has not": (("a", 3, NO), ("a", 3, ALL), ""),
    "other keys, which expire": (("a", 3, VOLATILE), ("a", 9, VOLATILE), ""),
    "other keys, and then none may be": (("a", 3, VOLATILE), ("a", 9, NO), ""),
    "other keys, from now on": (("a", 3, NO), ("a", 9, VOLATILE), ""),
    "evicted": (("a", 3, NO), ("a", 9, ALL), "evicted 6 keys under maxmemory-policy allkeys-lfu"),
    "evicted before the policy was put back": (
        ("a", 3, ALL),
        ("a", 4, NO),
        "evicted 1 keys under maxmemory-policy",
    ),
    "evicted, and then only others may be": (("a", 3, ALL), ("a", 4, VOLATILE), "evicted 1 keys under"),
    "evicted while nobody looked": (("a", 3, NO), ("a", 4, NO), "evicted 1 keys while nobody looked"),
    "restarted": (("a", 3, NO), ("b", 0, NO), ""),
    "restarted, other keys evicted": (("a", 3, VOLATILE), ("b", 7, VOLATILE), ""),
    "restarted, and evicted since": (("a", 0, NO), ("b", 7, NO), "evicted 7 keys while nobody looked"),
    "restarted while it might evict": (
        ("a", 3, ALL),
        ("b", 0, NO),
        "restarted or replaced under maxmemory-policy",
    ),
    "restarted so that it may evict": (
        ("a", 0, NO),
        ("b", 0, ALL),
        "restarted or replaced under maxmemory-policy",
    ),
    "its count was reset": (("a", 3, NO), ("a", 0, NO), ""),
    "its count was reset while it might evict": (("a", 3, ALL), ("a", 2, ALL), "restarted or replaced"),
}


@pytest.mark.parametrize("row", TABLE)
def test_only_what_may_have_evicted_tallies_is_damage(row: str) -> None:
    before, now, words = TABLE[row]
    damage = Evictions(*now).damage_since(Evictions(*before) if before else None)
    assert bool(damage) == bool(words)
    assert words in damage


@pytest.mark.parametrize(
    ("policy", "count", "quiet", "calm"),
    [(NO, 9, 0, True), (VOLATILE, 9, 0, True), (ALL, 0, 0, True), (ALL, 9, 29, False), (ALL, 9, 30, True)],
)
def test_tallies_are_counted_again_where_they_will_stay(policy: str, count: int, quiet: float, calm: bool) -> None:
    assert Evictions("a", count, policy).calm(quiet) is calm


def test_what_is_noted_is_read_back() -> None:
    look = Evictions("a", 3, ALL)
    assert Evictions.parse(look.text) == look
    with pytest.raises(ValueError, match="unpack"):
        Evictions.parse("a 3")
