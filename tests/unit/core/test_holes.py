"""What follows for the counters of a table that is not captured whole."""

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.holes import Hole, reasons_by_counter, to_be_marked
from cdc_counter.core.reading import CounterState

HOLE = Hole("public.t_1", ("a", "b"), "has no trigger for INSERT", 7)
VIEW = Hole("view c.a", ("a",), "is gone", 7)


def record(name: str, state: CounterState, reason: str = "") -> CounterRecord:
    return CounterRecord(1, name, state, scoped=False, reason=reason)


def test_every_counter_of_the_table_may_be_wrong_for_every_reason() -> None:
    more = Hole("public.t_2", ("a",), "is no longer part of public.t", 7)
    assert reasons_by_counter([HOLE, more], {}) == {
        "a": "public.t_1 has no trigger for INSERT; public.t_2 is no longer part of public.t",
        "b": "public.t_1 has no trigger for INSERT",
    }


def test_what_could_not_be_mended_is_said_with_its_remedy_once() -> None:
    said = reasons_by_counter([HOLE, VIEW], {7: "must be owner of table t_1; run apply as its owner"})
    assert said["b"] == "public.t_1 has no trigger for INSERT; must be owner of table t_1; run apply as its owner"
    assert said["a"].count("must be owner") == 1


def test_live_counters_are_marked_and_stale_ones_get_the_present_reason() -> None:
    records = {
        "live": record("live", CounterState.LIVE),
        "same": record("same", CounterState.STALE, "why"),
        "other": record("other", CounterState.STALE, "an older reason"),
        "seeding": record("seeding", CounterState.SEEDING),
        "rebuilding": record("rebuilding", CounterState.REBUILDING),
    }
    assert to_be_marked(dict.fromkeys([*records, "unknown"], "why"), records) == {"live": "why", "other": "why"}
