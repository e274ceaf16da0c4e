"""The fan-out against a model: clients of every speed, joining, leaving, resets. No sockets, no time."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import Change, CounterState, Gap, Reading, Reset
from cdc_counter.gateway.fanout import PORTION, Delivery, Event, Fanout, Portion
from cdc_counter.gateway.rooms import RoomKey

KEY, OTHER = RoomKey("open", "1"), RoomKey("open", "2")


def reading(key: RoomKey, sequence: int, values: dict[str, int]) -> Reading:
    return Reading(key.counter, key.scope, values, Lsn(sequence), "e1", CounterState.LIVE, sequence)


def change(key: RoomKey, sequence: int, values: dict[str, int]) -> Change:
    return Change(sequence, key.counter, key.scope, values, Lsn(sequence))


def fanout_with(*clients: str, key: RoomKey = KEY, limit: int = 100) -> Fanout:
    fanout = Fanout(limit, tick_seconds=0.0)
    for client in clients:
        fanout.enter(client)
        room = fanout.join(client, key)
        assert room is not None
        if not room.ready:
            fanout.install(room, reading(key, 0, {}))
        fanout.admit(client, key)
    return fanout


class Places:
    """A capacity of so many messages for each client, which are used up by `use`."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._used: Counter[str] = Counter()

    def __call__(self, client: str, _was_full: bool) -> int:
        return self._places - self._used[client]

    def use(self, portion: Portion) -> None:
        self._used.update(client for delivery in portion.deliveries for client in delivery.clients)


def open_handed(_client: str, _was_full: bool) -> int:
    return 100


def full(_client: str, _was_full: bool) -> int:
    return 0


def flush(fanout: Fanout, capacity: Any = open_handed, now: float = 0.0) -> list[Delivery]:
    return deliveries_of(fanout.flush(capacity, now))


def deliveries_of(portions: Iterable[Portion]) -> list[Delivery]:
    return [delivery for portion in portions for delivery in portion.deliveries]


def test_clients_in_step_share_one_message() -> None:
    fanout = fanout_with("a", "b")
    fanout.take([change(KEY, 1, {"x": 1}), change(KEY, 2, {"x": 2})])
    [delivery] = flush(fanout)
    assert (delivery.event, set(delivery.clients), delivery.body["changes"]) == (Event.TALLY, {"a", "b"}, {"x": 2})
    assert flush(fanout) == []


def test_latecomer_is_not_sent_what_its_snapshot_has() -> None:
    fanout = fanout_with("a")
    fanout.take([change(KEY, 1, {"x": 1, "y": 1})])
    fanout.enter("late")
    fanout.join("late", KEY)
    assert fanout.admit("late", KEY)["values"] == {"x": 1, "y": 1}  # type: ignore[index]  # it has a place
    fanout.take([change(KEY, 2, {"y": 2})])
    sent = {delivery.clients: delivery.body["changes"] for delivery in flush(fanout)}
    assert sent == {("a",): {"x": 1, "y": 2}, ("late",): {"y": 2}}


def test_nothing_is_sent_to_a_place_before_it_is_admitted() -> None:
    fanout = fanout_with("a")
    fanout.enter("late")
    fanout.join("late", KEY)
    fanout.take([change(KEY, 1, {"x": 1})])
    assert [delivery.clients for delivery in flush(fanout)] == [("a",)]


def test_full_client_is_owed_one_snapshot_however_much_changed() -> None:
    fanout = fanout_with("a")
    for number in range(1, 50):
        fanout.take([change(KEY, number, {"x": number})])
        assert flush(fanout, full) == []
    [delivery] = flush(fanout)
    assert (delivery.event, delivery.body["values"], delivery.clients) == (Event.RESET, {"x": 49}, ("a",))
    assert fanout.next_flush_at() is None


def test_only_a_client_that_stays_full_is_stuck() -> None:
    fanout = fanout_with("a")
    fanout.take([change(KEY, 1, {"x": 1})])
    flush(fanout, full, now=100.0)
    assert fanout.stuck(159.0, 60.0) == []
    assert fanout.stuck(161.0, 60.0) == ["a"]
    flush(fanout, now=162.0)
    assert fanout.stuck(1000.0, 60.0) == []


def test_client_that_has_read_everything_is_not_stuck_while_a_room_is_read_again() -> None:
    fanout = fanout_with("a")
    fanout.take([change(KEY, 1, {"x": 1})])
    assert flush(fanout, full, now=100.0) == []
    fanout.take([Gap(sequence=2)])
    assert flush(fanout, now=101.0) == []
    assert fanout.stuck(1000.0, 60.0) == []


def test_waiting_for_a_reading_is_not_being_stuck() -> None:
    fanout = fanout_with("a")
    fanout.take([Reset(1, None)])
    flush(fanout, full, now=0.0)
    assert fanout.stuck(1000.0, 60.0) == []


def test_snapshots_owed_are_sent_as_far_as_there_is_place() -> None:
    fanout = fanout_with("a", limit=100)
    keys = [RoomKey("open", str(number)) for number in range(2, 12)]
    rooms = [fanout.join("a", key) for key in keys]
    for room, key in zip(rooms, keys, strict=True):
        assert room is not None
        fanout.install(room, reading(key, 0, {}))
        fanout.admit("a", key)
    fanout.take([change(key, 1, {"x": 1}) for key in keys])
    flush(fanout, full)
    places = Places(3)
    for portion in fanout.flush(places, 0.0):
        places.use(portion)
    assert places("a", False) == 0
    assert len(flush(fanout)) == 7


def test_snapshots_owed_are_sent_in_turn() -> None:
    """A room that changes all the time, for which there is place once, keeps no other one waiting."""
    fanout = fanout_with("a")
    other = fanout.join("a", OTHER)
    assert other is not None
    fanout.install(other, reading(OTHER, 0, {}))
    fanout.admit("a", OTHER)
    fanout.take([change(KEY, 1, {"x": 1}), change(OTHER, 2, {"x": 1})])
    flush(fanout, full)
    sent: list[str] = []
    for sequence in range(3, 7):
        places = Places(1)
        for portion in fanout.flush(places, 0.0):
            places.use(portion)
            sent += [delivery.body["scope"] for delivery in portion.deliveries]
        fanout.take([change(KEY, sequence, {"x": sequence})])
        flush(fanout, full)
    assert sent[:2] == [KEY.scope, OTHER.scope]


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Fanout:
    """Give a room whose clients are sent to one by one."""
    monkeypatch.setattr("cdc_counter.gateway.fanout.PORTION", 1)
    return fanout_with("a", "b", "c")


def test_nobody_who_left_between_two_portions_is_sent_to(crowd: Fanout) -> None:
    crowd.take([change(KEY, 1, {"x": 1})])
    portions = crowd.flush(open_handed, 0.0)
    [delivery] = next(portions).deliveries
    assert delivery.clients == ("a",)
    crowd.leave("b", KEY)
    assert [delivery.clients for delivery in deliveries_of(portions)] == [("c",)]


def test_nobody_who_left_between_two_portions_is_sent_what_it_was_owed(crowd: Fanout) -> None:
    crowd.take([change(KEY, 1, {"x": 1})])
    flush(crowd, full)
    portions = crowd.flush(open_handed, 0.0)
    next(portion for portion in portions if portion.deliveries)
    crowd.leave("b", KEY)
    assert [delivery.clients for delivery in deliveries_of(portions)] == [("c",)]


def test_room_to_be_read_again_between_two_portions_sends_nothing_before(crowd: Fanout) -> None:
    crowd.take([change(KEY, 1, {"x": 1})])
    portions = crowd.flush(open_handed, 0.0)
    next(portions)
    crowd.take([Reset(2, None)])
    assert deliveries_of(portions) == []


def test_who_asks_again_between_two_portions_gets_nothing_older_after_it(crowd: Fanout) -> None:
    crowd.take([change(KEY, 1, {"x": 1})])
    portions = crowd.flush(open_handed, 0.0)
    next(portions)
    crowd.take([change(KEY, 2, {"x": 2})])
    crowd.admit("b", KEY)
    assert [delivery.clients for delivery in deliveries_of(portions)] == [("c",)]
    assert {delivery.clients: delivery.body["version"] for delivery in flush(crowd)} == {
        ("a",): Lsn(2).version,
        ("c",): Lsn(2).version,
    }


@pytest.mark.parametrize("again", [False, True], ids=["a change", "a snapshot that is owed"])
def test_no_portion_takes_longer_where_nobody_has_a_place(again: bool) -> None:
    fanout = fanout_with(*map(str, range(5 * PORTION)))
    fanout.take([change(KEY, 1, {"x": 1})])
    if again:
        flush(fanout, full)
        fanout.take([Reset(2, None)])
    portions = list(fanout.flush(full, 0.0))
    assert sum(portion.looked_at for portion in portions) >= 5 * PORTION
    assert max(portion.looked_at for portion in portions) <= 2 * PORTION
    assert deliveries_of(portions) == []


def test_first_change_is_sent_at_once_and_the_next_ones_of_that_room_a_tick_later() -> None:
    fanout = Fanout(10, tick_seconds=1.0)
    for key in (KEY, OTHER):
        fanout.enter(key.scope)
        room = fanout.join(key.scope, key)
        assert room is not None
        fanout.install(room, reading(key, 0, {}))
        fanout.admit(key.scope, key)
    fanout.take([change(KEY, 1, {"x": 1})])
    assert len(flush(fanout, now=10.0)) == 1
    fanout.take([change(KEY, 2, {"x": 2}), change(OTHER, 3, {"x": 3})])
    assert [delivery.body["scope"] for delivery in flush(fanout, now=10.5)] == [OTHER.scope]
    assert fanout.next_flush_at() == 11.0
    assert [delivery.body["changes"] for delivery in flush(fanout, now=11.0)] == [{"x": 2}]
    assert fanout.next_flush_at() is None


def test_reset_of_one_counter_reads_only_its_rooms() -> None:
    fanout = fanout_with("a")
    other = RoomKey("total", "-")
    fanout.join("a", other)
    assert [room.key for room in fanout.take([Reset(1, "total")])] == [other]
    assert {room.key for room in fanout.take([Reset(2, None)])} == {KEY, other}


def test_last_one_out_closes_the_room() -> None:
    fanout = fanout_with("a", "b")
    fanout.leave("a", KEY)
    assert fanout.room(KEY) is not None
    fanout.drop("b")
    assert fanout.room(KEY) is None
    assert fanout.subscriptions == 0


def test_places_are_counted_once_each() -> None:
    fanout = fanout_with("a", limit=2)
    assert fanout.join("a", KEY) is not None
    assert fanout.join("a", OTHER) is not None
    assert fanout.join("a", RoomKey("open", "3")) is None
    assert fanout.subscriptions == 2


def test_dead_client_dropped_while_sending_harms_nobody() -> None:
    fanout = fanout_with("a", "b")
    fanout.take([Reset(1, None)])
    room = fanout.room(KEY)
    assert room is not None
    fanout.install(room, reading(KEY, 1, {"x": 1}))
    for _ in fanout.flush(open_handed, 0.0):
        fanout.drop("a")
        fanout.drop("b")
    assert fanout.room(KEY) is None


@dataclass
class Viewer:
    """A client as the protocol tells it to behave."""

    values: dict[str, int] = field(default_factory=dict)
    version: str = ""
    place: int = 0

    def see(self, event: Event, body: Mapping[str, Any]) -> None:
        assert body["version"] >= self.version
        self.version = body["version"]
        if event is Event.RESET:
            self.values = dict(body["values"])
        else:
            merged = self.values | body["changes"]
            self.values = {bucket: value for bucket, value in merged.items() if value}


class World:
    """One room, its source and any number of viewers; every step keeps the model and the fan-out in the same story."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.fanout = Fanout(10, tick_seconds=1.0)
        self.now = 1.0
        self.tallies: dict[str, int] = {}
        self.sequence = 0
        self.viewers: dict[str, Viewer] = {}
        self.meanwhile = [self.change, self.change, self.change, self.join, self.rejoin, self.leave, self.reset]
        self.meanwhile += [self.install, self.read, self.wait]
        self.steps = [*self.meanwhile, self.flush, self.flush]

    def change(self) -> None:
        self.sequence += 1
        values = {self.chance.choice("abc"): self.chance.randint(0, 2)}
        self.tallies = {bucket: value for bucket, value in (self.tallies | values).items() if value}
        self.fanout.take([change(KEY, self.sequence, values)])

    def wait(self) -> None:
        self.now += 0.4

    def flush(self) -> None:
        for _ in self.deliver(lambda client, _was_full: max(0, self.viewers[client].place)):
            if self.chance.random() < 0.5:
                self.chance.choice(self.meanwhile)()

    def deliver(self, capacity: Any) -> Iterator[None]:
        for portion in self.fanout.flush(capacity, self.now):
            self._arrive(portion)
            yield

    def _arrive(self, portion: Portion) -> None:
        for delivery in portion.deliveries:
            for client in delivery.clients:
                self.viewers[client].place -= 1
                self.viewers[client].see(delivery.event, delivery.body)

    def join(self) -> None:
        name = f"client {self.chance.random()}"
        self.fanout.enter(name)
        self.fanout.join(name, KEY)
        self.install()
        snapshot = self.fanout.admit(name, KEY)
        assert snapshot is not None
        self.viewers[name] = Viewer(dict(snapshot["values"]), snapshot["version"])

    def rejoin(self) -> None:
        """Subscribe again to what one is subscribed to."""
        if self.viewers:
            name = self.chance.choice(list(self.viewers))
            self.install()
            snapshot = self.fanout.admit(name, KEY)
            assert snapshot is not None
            self.viewers[name].see(Event.RESET, snapshot)

    def leave(self) -> None:
        if self.viewers:
            name = self.chance.choice(list(self.viewers))
            self.fanout.drop(name)
            del self.viewers[name]

    def reset(self) -> None:
        self.sequence += 1
        self.fanout.take([Reset(self.sequence, None)])

    def install(self) -> None:
        room = self.fanout.room(KEY)
        if room is not None and not room.ready:
            self.fanout.install(room, reading(KEY, self.sequence, self.tallies))

    def read(self) -> None:
        if self.viewers:
            self.viewers[self.chance.choice(list(self.viewers))].place = self.chance.randint(0, 2)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80))
def test_every_viewer_ends_with_the_tallies_and_never_sees_an_older_version(seed: int, steps: int) -> None:
    """Any mixture of changes, flushes, slow clients, late ones, resets: caught up, all show the same."""
    world = World(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdc_counter.gateway.fanout.PORTION", 2)
        for _ in range(steps):
            world.chance.choice(world.steps)()
        world.install()
        for _ in range(2):
            world.now += 1.0
            list(world.deliver(open_handed))
    assert [viewer.values for viewer in world.viewers.values()] == [world.tallies] * len(world.viewers)
    assert world.fanout.next_flush_at() is None


@pytest.mark.parametrize("admitted", [True, False])
def test_retired_room_says_so_to_its_viewers_only(admitted: bool) -> None:
    fanout = fanout_with("a")
    fanout.enter("b")
    room = fanout.join("b", KEY)
    assert room is not None
    if admitted:
        fanout.admit("b", KEY)
    farewell = fanout.retire(room)
    assert set(farewell.clients) == ({"a", "b"} if admitted else {"a"})
    assert (farewell.body["state"], farewell.body["removed"]) == ("stale", True)
    assert fanout.subscriptions == 0
