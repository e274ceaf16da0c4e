"""Commits, and when who saw them: from both, how long everybody waited. Pure.

Every commit adds one row to one room; `number` is how many rows the room has with it. Whoever sees the room at that
number or a higher one has seen the commit. Times are of one clock, monotonic nanoseconds.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Commit(NamedTuple):
    """`due` is when it was to be sent, `returned` when the writer knew that it was committed."""

    room: int
    number: int
    due: int
    returned: int


class Sighting(NamedTuple):
    """At this time the room was seen with so many rows."""

    room: int
    number: int
    at: int


def delays(commits: Iterable[Commit], sightings: Iterable[Sighting]) -> list[float]:
    """Return the seconds from each commit's return until one observer saw it; what was never seen is left out.

    It may be less than none: the server sends a commit to its readers before it answers the writer.
    """
    by_room: dict[int, list[Sighting]] = defaultdict(list)
    for sighting in sorted(sightings, key=lambda each: each.at):
        by_room[sighting.room].append(sighting)
    found = []
    following: dict[int, int] = defaultdict(int)
    for commit in sorted(commits, key=lambda each: each.number):
        seen, at = by_room[commit.room], following[commit.room]
        while at < len(seen) and seen[at].number < commit.number:
            at += 1
        following[commit.room] = at
        if at < len(seen):
            found.append((seen[at].at - commit.returned) / 1e9)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
