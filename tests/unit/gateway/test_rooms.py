from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import Change, CounterState, Reading
from cdc_counter.gateway.rooms import Room, RoomKey

KEY = RoomKey("open", "42")


def reading(sequence: int, values: dict[str, int], *, version: int | None = None) -> Reading:
    lsn = Lsn(sequence if version is None else version)
    return Reading(KEY.counter, KEY.scope, values, lsn, "e1", CounterState.LIVE, sequence)


def change(sequence: int, values: dict[str, int], *, version: int | None = None) -> Change:
    return Change(sequence, KEY.counter, KEY.scope, values, Lsn(sequence if version is None else version))


def ready_room(sequence: int = 10, values: dict[str, int] | None = None) -> Room:
    room = Room(KEY)
    room.install(reading(sequence, values or {}))
    return room


def test_change_already_in_the_reading_is_not_applied_again() -> None:
    room = ready_room(10, {"a": 5})
    assert not room.apply(change(10, {"a": 1}))
    assert room.values == {"a": 5}
    assert room.take_unsent() is None


def test_zero_removes_a_bucket_and_is_sent_as_zero() -> None:
    room = ready_room(10, {"a": 5})
    room.apply(change(11, {"a": 0}))
    unsent = room.take_unsent()
    assert room.values == {}
    assert unsent is not None
    assert unsent.values == {"a": 0}


def test_correction_without_a_new_commit_keeps_the_version() -> None:
    room = ready_room(10)
    room.apply(change(11, {"a": 1}, version=4))
    assert (room.version, room.values) == (Lsn(10), {"a": 1})


def test_flush_has_each_bucket_once_with_its_last_value() -> None:
    room = ready_room(10)
    room.apply(change(11, {"a": 1, "b": 1}))
    room.apply(change(12, {"a": 2}))
    unsent = room.take_unsent()
    assert unsent is not None
    assert (unsent.values, unsent.sequences, unsent.after) == ({"a": 2, "b": 1}, {"a": 12, "b": 11}, 10)
    assert room.take_unsent() is None


def test_reading_that_was_overtaken_gets_the_later_changes_on_top() -> None:
    room = Room(KEY)
    room.apply(change(11, {"a": 1, "b": 1}))
    room.apply(change(12, {"a": 2}))
    room.install(reading(11, {"a": 1, "b": 1}))
    assert (room.values, room.sequence, room.version) == ({"a": 2, "b": 1}, 12, Lsn(12))


def test_entries_before_a_new_feed_do_not_survive_it() -> None:
    room = ready_room(900)
    room.expect_reading()
    room.apply(change(901, {"a": 1}))
    room.expect_reading()
    room.install(reading(3, {"b": 1}))
    assert room.apply(change(4, {"b": 2}))
    assert room.values == {"b": 2}


buckets = st.dictionaries(st.sampled_from("abcd"), st.integers(-2, 2), min_size=1)


@given(changes=st.lists(buckets, max_size=12), data=st.data())
def test_room_equals_the_source_whenever_the_reading_was_taken(
    changes: list[dict[str, int]], data: st.DataObject
) -> None:
    """Whatever part of the feed arrives before, during and after the reading, the end is the same."""
    taken = data.draw(st.integers(0, len(changes)), "entries included in the reading")
    joined = data.draw(st.integers(0, taken), "entries before the room was opened")
    installed = data.draw(st.integers(joined, len(changes)), "entries before the reading arrived")
    states: list[dict[str, int]] = [{}]
    for values in changes:
        merged = states[-1] | values
        states.append({bucket: value for bucket, value in merged.items() if value})
    room = Room(KEY)
    versions = []
    for number, values in enumerate(changes, start=1):
        if number == installed + 1:
            room.install(reading(taken, states[taken]))
        if number > joined:
            room.apply(change(number, values))
        if room.ready:
            versions.append(room.version)
            assert room.values == states[max(number, taken)]
    if not room.ready:
        room.install(reading(taken, states[taken]))
    assert room.values == states[-1]
    assert versions == sorted(versions)


def test_a_lifetime_without_numbers_yet_leaves_the_last_ones_marked() -> None:
    room = ready_room(10, {"a": 5})
    begun = replace(reading(20, {}), epoch="e2", state=CounterState.SEEDING)
    for _ in range(2):
        room.expect_reading()
        room.install(begun)
        assert (room.values, room.state, room.epoch) == ({"a": 5}, CounterState.REBUILDING, "e2")
    room.expect_reading()
    room.install(replace(reading(21, {"b": 1}), epoch="e2"))
    assert (room.values, room.state) == ({"b": 1}, CounterState.LIVE)


def test_a_counter_that_is_seeded_in_the_same_lifetime_shows_nothing_old() -> None:
    """It is another counter of that name."""
    room = ready_room(10, {"a": 5})
    room.install(replace(reading(20, {}), state=CounterState.SEEDING))
    assert (room.values, room.state) == ({}, CounterState.SEEDING)
