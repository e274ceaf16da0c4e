"""What becomes of counters, and what Redis has to be told."""

from dataclasses import dataclass

from cdc_counter.core.changes import Act, Beginning, ChangePlan, CounterChange, Difference, change_of, follow
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.reading import CounterState

OLD = CounterDefinition("c", "t", where="open", scope=("a",), by=("b",))
LIVE = CounterRecord(1, "c", CounterState.LIVE, scoped=True, scale=2)


@dataclass(frozen=True, slots=True)
class Captured:
    id: int
    name: str = "c"
    scoped: bool = True
    scale: int = 2


def test_declaration_that_differs_is_shown_key_by_key() -> None:
    new = CounterDefinition("c", "t", scope=("a",), by=("b", "d"), sum_of="x")
    change = change_of("c", OLD, new, same=False, hole=False)
    assert change.act is Act.ALTER
    assert change.differences == (
        Difference("where", "open", ""),
        Difference("by", "b", "b, d"),
        Difference("measure", "count", "sum(x)"),
    )


def test_same_words_that_mean_something_else_are_an_alteration_with_a_reason() -> None:
    change = change_of("c", OLD, OLD, same=False, hole=False)
    assert (change.act, change.differences) == (Act.ALTER, ())
    assert "column's type" in change.reason


def test_hole_makes_a_recount_only_of_what_is_not_altered_anyway() -> None:
    assert change_of("c", OLD, OLD, same=True, hole=True).act is Act.RECOUNT
    assert change_of("c", OLD, OLD, same=False, hole=True).act is Act.ALTER
    assert change_of("c", OLD, OLD, same=True, hole=False).act is Act.KEEP
    assert change_of("c", None, OLD, same=False, hole=True).act is Act.ADD
    assert change_of("c", OLD, None, same=False, hole=False).act is Act.REMOVE


def test_plan_that_keeps_everything_is_empty_unless_redis_or_the_slot_lacks_something() -> None:
    kept = (CounterChange("c", Act.KEEP),)
    assert ChangePlan(kept).is_empty
    for plan in (
        ChangePlan(kept, steps=("x",)),
        ChangePlan(kept, slot="s"),
        ChangePlan(kept, has_tallies=False),
        ChangePlan(kept, unknown=("c",)),
        ChangePlan(kept, forgotten=("d",)),
    ):
        assert not plan.is_empty
        assert plan.to_json()["changes"] is True
    assert ChangePlan(kept, slot="s").needs_init
    assert not ChangePlan(kept, steps=("x",)).needs_init


def test_new_counter_begins_without_numbers_and_an_altered_one_keeps_showing_the_old() -> None:
    assert follow({}, [Captured(1)], 5.0).begun == (
        Beginning(CounterRecord(1, "c", CounterState.SEEDING, True, 2, since=5.0), None),
    )
    ((begun),) = follow({"c": LIVE}, [Captured(2)], 5.0).begun
    assert (begun.replaced, begun.record.state, begun.record.id) == (1, CounterState.REBUILDING, 2)
    stale = LIVE.moved_to(CounterState.STALE, 1.0, "why", drifted=3)
    assert follow({"c": stale}, [Captured(2)], 5.0).begun == (begun,)


def test_altered_counter_that_never_had_numbers_or_has_other_scopes_shows_none() -> None:
    for known, captured in (
        (LIVE.moved_to(CounterState.SEEDING, 1.0), Captured(2)),
        (LIVE, Captured(2, scoped=False)),
    ):
        (begun,) = follow({"c": known}, [captured], 5.0).begun
        assert begun.record.state is CounterState.SEEDING


def test_old_numbers_are_shown_with_their_own_scale_until_the_new_ones_are_live() -> None:
    (first,) = follow({"c": LIVE}, [Captured(2, scale=3)], 5.0).begun
    assert (first.record.info.scale, first.record.scale) == (2, 3)
    (second,) = follow({"c": first.record}, [Captured(3, scale=4)], 6.0).begun
    assert second.record.info.scale == 2
    (back,) = follow({"c": second.record}, [Captured(4, scale=2)], 7.0).begun
    assert back.record.shown_scale is None
    live = second.record.moved_to(CounterState.LIVE, 8.0)
    assert live.info.scale == 4
    assert CounterRecord.from_json(second.record.to_json()) == second.record


def test_counter_that_is_captured_no_more_is_gone_and_a_known_one_is_left_alone() -> None:
    other = CounterRecord(4, "d", CounterState.LIVE, scoped=False)
    following = follow({"c": LIVE, "d": other}, [Captured(1)], 5.0)
    assert (following.begun, following.gone, following.changes) == ((), (other,), 1)
    assert follow({"c": LIVE}, [Captured(1)], 5.0).changes == 0


def test_counter_of_a_schema_that_was_made_anew_begins_although_its_id_is_lower() -> None:
    known = CounterRecord(7, "c", CounterState.LIVE, scoped=True, scale=2)
    assert follow({"c": known}, [Captured(1)], 5.0).begun[0].replaced == 7
