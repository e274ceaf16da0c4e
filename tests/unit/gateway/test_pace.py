"""When rooms are sent: at once after a quiet moment, and never more often than once per tick."""

from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.gateway.pace import Pace
from cdc_counter.gateway.rooms import RoomKey

ROOMS = [RoomKey("open", scope) for scope in "ab"]
TICK = 20


STEPS = st.tuples(
    st.integers(0, 9), st.sampled_from(["change", "take", "change", "take", "forget"]), st.sampled_from(ROOMS)
)


@given(st.lists(STEPS, min_size=10, max_size=60))
def test_room_is_taken_as_soon_as_it_may_and_no_sooner(story: list[tuple[int, str, RoomKey]]) -> None:
    pace, now = Pace(TICK), 0
    changed: set[RoomKey] = set()
    taken: dict[RoomKey, int] = {}

    def due(at: float) -> set[RoomKey]:
        return {key for key in changed if taken.get(key, -TICK) + TICK <= at}

    for passed, step, key in story:
        now += passed
        if step == "change":
            changed.add(key)
            pace.changed(key)
        elif step == "forget":
            changed.discard(key)
            pace.forget(key)
        else:
            expected = due(now)
            assert set(pace.take(now)) == expected
            changed -= expected
            taken.update(dict.fromkeys(expected, now))
        moment = pace.next_at()
        assert (moment is None) == (not changed)
        if moment is not None:
            # In vain it may be, too late never.
            assert moment <= max(now, min(taken.get(key, -TICK) + TICK for key in changed))


def test_nothing_is_kept_of_rooms_that_were_quiet_for_a_tick() -> None:
    pace = Pace(TICK)
    for number in range(100):
        pace.changed(RoomKey("open", str(number)))
        pace.take(number * TICK)
    pace.take(100 * TICK)
    assert (len(pace._rests), len(pace._resting), len(pace._later), len(pace._due)) == (0, 0, 0, 0)
