"""Holes in capture: changes of a counted table that go uncounted, and what follows for its counters.

Whatever was counted across a hole can't be trusted, so a counter is stale from the moment one is seen until the hole is
closed and its rows are counted again. A truth view that is gone is a hole, too: it is what keeps columns from becoming
something else. How a hole is closed is not decided here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.reading import CounterState


@dataclass(frozen=True, slots=True)
class Hole:
    """A fault of `relation` (as SQL) that concerns these counters. `reason` is a phrase, lower case.

    `table` is the counted table that it belongs to, by oid. `by_hand`: only a person can close it.
    """

    relation: str
    counters: tuple[str, ...]
    reason: str
    table: int
    by_hand: bool = False

    def __str__(self) -> str:
        return f"{self.relation} {self.reason}"


def reasons_by_counter(holes: Sequence[Hole], refusals: Mapping[int, str]) -> dict[str, str]:
    """Return why each counter may be wrong, by name; `refusals` say by table why its holes could not be closed."""
    found: dict[str, list[str]] = {}
    for hole in holes:
        for counter in hole.counters:
            found.setdefault(counter, []).append(str(hole))
    remedies = {counter: refusals[hole.table] for hole in holes if hole.table in refusals for counter in hole.counters}
    return {
        counter: "; ".join([*said, *([remedies[counter]] if counter in remedies else [])])
        for counter, said in found.items()
    }


def to_be_marked(reasons: Mapping[str, str], records: Mapping[str, CounterRecord]) -> dict[str, str]:
    """Return the counters whose record has to say that they are stale, or why.

    One that is being counted is left alone: it starts again, or is marked, when its hole is closed or stays.
    """
    return {
        name: reason
        for name, reason in reasons.items()
        if (record := records.get(name)) is not None
        and (record.state is CounterState.LIVE or (record.state is CounterState.STALE and record.reason != reason))
    }
