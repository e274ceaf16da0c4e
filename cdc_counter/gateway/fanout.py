"""Who is told what: subscriptions, and what each flush sends to whom.

Clients in step share one message per room. A client that takes its messages too slowly is owed a snapshot of every
room that changed meanwhile, however often it changed, and gets it once there is place for it: what waits for one
client is bounded by its subscriptions, and it never sees anything older than what it has seen. Whoever joined between
two flushes has seen some of the changes in its snapshot and is sent only the others. No sockets, tasks or clock here.

A flush to thousands of clients comes in portions, and anything may happen between two of them: what a portion sends,
and to whom, is decided when it is asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, assert_never

from cdc_counter.core.reading import Change, CounterState, FeedEntry, Gap, Reading, Reset
from cdc_counter.gateway.messages import changes_of, snapshot_of
from cdc_counter.gateway.pace import Pace
from cdc_counter.gateway.rooms import Room, RoomKey, Unsent

PORTION: Final = 256
"""Clients that are looked at before others may run: about five milliseconds' work, if all are sent to."""

Capacity = Callable[[str, bool], int]
"""How many more messages a client can take; the flag says that it was full when last looked at."""


class Event(StrEnum):
    """Events sent to clients."""

    TALLY = "tally"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for some clients."""

    event: Event
    body: dict[str, Any]
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Portion:
    """What is sent together, and how many clients and rooms were looked at for it: that takes time, too."""

    deliveries: tuple[Delivery, ...]
    looked_at: int


@dataclass(slots=True)
class _Subscription:
    """`seen` is the last feed entry this client knows of in this room; None until it has got its snapshot."""

    seen: int | None = None


class Fanout:
    """All rooms with at least one subscriber, and all clients."""

    def __init__(self, max_subscriptions: int, tick_seconds: float) -> None:
        self._max_subscriptions = max_subscriptions
        self._tick_seconds = tick_seconds
        self._rooms: dict[RoomKey, Room] = {}
        self._audience: dict[RoomKey, dict[str, _Subscription]] = {}
        self._clients: dict[str, set[RoomKey]] = {}
        self._pace = Pace(tick_seconds)
        self._owed: dict[str, dict[RoomKey, None]] = {}
        """Rooms of which each client is to get a snapshot, the one that is owed for longest first."""
        self._owed_at = 0.0
        """When it may next be looked whether they have a place."""
        self._congested_since: dict[str, float] = {}
        self.subscriptions = 0
        """How many there are, those still waiting for their snapshot included."""

    def next_flush_at(self) -> float | None:
        """Return from when on a flush has something to try; None while there is nothing."""
        moments = [self._pace.next_at(), self._owed_at if self._owed else None]
        return min((moment for moment in moments if moment is not None), default=None)

    def room(self, key: RoomKey) -> Room | None:
        """Return an open room."""
        return self._rooms.get(key)

    def rooms_being_read(self) -> list[Room]:
        """Return the rooms that wait for a reading."""
        return [room for room in self._rooms.values() if not room.ready]

    def enter(self, client: str) -> None:
        """Make a client known."""
        self._clients[client] = set()

    def drop(self, client: str) -> None:
        """Forget a client and all it is subscribed to."""
        for key in tuple(self._clients.get(client, ())):
            self.leave(client, key)
        self._clients.pop(client, None)

    def join(self, client: str, key: RoomKey) -> Room | None:
        """Take a place in a room, opened if need be; None when the client has too many or is gone.

        Nothing is sent to that place before `admit`.
        """
        keys = self._clients.get(client)
        if keys is None or (key not in keys and len(keys) >= self._max_subscriptions):
            return None
        if key not in keys:
            keys.add(key)
            self._audience.setdefault(key, {})[client] = _Subscription()
            self.subscriptions += 1
        return self._rooms.setdefault(key, Room(key))

    def leave(self, client: str, key: RoomKey) -> bool:
        """Give up a place; the last one out closes the room. Return whether there was one."""
        keys = self._clients.get(client)
        if keys is None or key not in keys:
            return False
        keys.remove(key)
        self.subscriptions -= 1
        self._settle(client, key)
        audience = self._audience[key]
        del audience[client]
        if not audience:
            self._close(key)
        return True

    def admit(self, client: str, key: RoomKey) -> dict[str, Any] | None:
        """Return the room's snapshot and send later changes; None when the place was given up meanwhile."""
        subscription = self._audience.get(key, {}).get(client)
        if subscription is None:
            return None
        room = self._rooms[key]
        subscription.seen = room.sequence
        self._settle(client, key)
        return snapshot_of(room)

    def take(self, entries: Iterable[FeedEntry]) -> list[Room]:
        """Take entries of the feed; return the rooms that must be read again."""
        stale: dict[RoomKey, Room] = {}
        for entry in entries:
            match entry:
                case Change():
                    room = self._rooms.get(RoomKey(entry.counter, entry.scope))
                    if room is not None and room.apply(entry):
                        self._pace.changed(room.key)
                case Reset():
                    stale.update(self._expect_readings(entry.counter))
                case Gap():
                    stale.update(self._expect_readings(None))
                case _:
                    assert_never(entry)
        return list(stale.values())

    def install(self, room: Room, reading: Reading) -> None:
        """Put a reading into its room; everybody who has seen older values is owed a snapshot."""
        room.install(reading)
        self._pace.forget(room.key)
        for client, subscription in self._audience[room.key].items():
            if subscription.seen is not None:
                self._owe(client, room.key)

    def retire(self, room: Room) -> Delivery:
        """Close the room of a counter that is no more; return the last word to those who still look at it.

        It has the shape of every reset, so that whoever knows nothing of `removed` shows the numbers as stale.
        """
        room.state = CounterState.STALE
        audience = self._audience[room.key]
        viewers = tuple(client for client, subscription in audience.items() if subscription.seen is not None)
        for client in tuple(audience):
            self.leave(client, room.key)
        return Delivery(Event.RESET, {**snapshot_of(room), "removed": True}, viewers)

    def flush(self, capacity: Capacity, now: float) -> Iterator[Portion]:
        """Yield what is to be sent now, in portions; others may run between two of them, not within one."""
        for key in self._pace.take(now):
            room = self._rooms.get(key)
            unsent = room.take_unsent() if room is not None and room.ready else None
            if room is not None and unsent is not None:
                yield from self._changes(room, unsent, capacity, now)
        if self._owed and now >= self._owed_at:
            self._owed_at = now + self._tick_seconds
            yield from self._resets(capacity, now)

    def stuck(self, now: float, seconds: float) -> list[str]:
        """Return the clients that have had no place for longer than `seconds`."""
        return [client for client, since in self._congested_since.items() if now - since > seconds]

    def _changes(self, room: Room, unsent: Unsent, capacity: Capacity, now: float) -> Iterator[Portion]:
        generation = room.generation
        body = changes_of(room.key, unsent.values, unsent.version)
        for clients in _portions(tuple(self._audience[room.key])):
            if room.generation != generation or self._rooms.get(room.key) is not room:
                # To be read again, and then everybody is owed a snapshot; or closed.
                return
            in_step, latecomers = self._takers(room.key, unsent, clients, capacity, now)
            deliveries = (
                *((Delivery(Event.TALLY, body, tuple(in_step)),) if in_step else ()),
                *(Delivery(Event.TALLY, self._rest(room.key, unsent, seen), (client,)) for client, seen in latecomers),
            )
            yield Portion(deliveries, len(clients))

    def _takers(
        self, key: RoomKey, unsent: Unsent, clients: tuple[str, ...], capacity: Capacity, now: float
    ) -> tuple[list[str], list[tuple[str, int]]]:
        """Return who is sent all that is unsent, and who has seen how much of it; others are owed a snapshot."""
        audience = self._audience[key]
        in_step: list[str] = []
        latecomers: list[tuple[str, int]] = []
        for client in clients:
            subscription = audience.get(client)
            seen = subscription.seen if subscription is not None else None
            if subscription is None or seen is None or seen >= unsent.through:
                continue
            if (self._owed and key in self._owed.get(client, ())) or not self._has_place(client, capacity, now):
                self._owe(client, key)
                continue
            subscription.seen = unsent.through
            if seen <= unsent.after:
                in_step.append(client)
            else:
                latecomers.append((client, seen))
        return in_step, latecomers

    def _rest(self, key: RoomKey, unsent: Unsent, seen: int) -> dict[str, Any]:
        rest = {bucket: unsent.values[bucket] for bucket, at in unsent.sequences.items() if at > seen}
        return changes_of(key, rest, unsent.version)

    def _resets(self, capacity: Capacity, now: float) -> Iterator[Portion]:
        waiting: dict[RoomKey, list[str]] = {}
        looked_at = 0
        for client in tuple(self._owed):
            keys = self._owed.get(client, {})
            ready = [key for key in keys if self._rooms[key].ready]
            # Whoever was full is looked at even where there is nothing to send yet: it may have read everything.
            if (ready or client in self._congested_since) and self._has_place(client, capacity, now):
                for key in ready:
                    waiting.setdefault(key, []).append(client)
            looked_at += 1 + len(keys)
            if looked_at >= PORTION:
                yield Portion((), looked_at)
                looked_at = 0
        for key, clients in waiting.items():
            for some in _portions(tuple(clients)):
                room = self._rooms.get(key)
                # Whoever has left is owed nothing any more.
                here = [client for client in some if key in self._owed.get(client, ())]
                deliveries: tuple[Delivery, ...] = ()
                if room is not None and room.ready:
                    deliveries = self._reset(room, [each for each in here if self._has_place(each, capacity, now)])
                yield Portion(deliveries, len(some))

    def _reset(self, room: Room, clients: list[str]) -> tuple[Delivery, ...]:
        for client in clients:
            self._audience[room.key][client].seen = room.sequence
            self._settle(client, room.key)
        return (Delivery(Event.RESET, snapshot_of(room), tuple(clients)),) if clients else ()

    def _has_place(self, client: str, capacity: Capacity, now: float) -> bool:
        # Who was full has to drain a good part first: else every packet read would bring another snapshot.
        was_full = client in self._congested_since
        if capacity(client, was_full) > 0:
            if was_full:
                del self._congested_since[client]
            return True
        self._congested_since.setdefault(client, now)
        return False

    def _expect_readings(self, counter: str | None) -> dict[RoomKey, Room]:
        chosen = {key: room for key, room in self._rooms.items() if counter in {None, key.counter}}
        for room in chosen.values():
            room.expect_reading()
        return chosen

    def _owe(self, client: str, key: RoomKey) -> None:
        self._owed.setdefault(client, {})[key] = None

    def _settle(self, client: str, key: RoomKey) -> None:
        owed = self._owed.get(client)
        if owed is not None:
            owed.pop(key, None)
            if not owed:
                del self._owed[client]
                self._congested_since.pop(client, None)

    def _close(self, key: RoomKey) -> None:
        del self._audience[key], self._rooms[key]
        self._pace.forget(key)


def _portions(clients: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (clients[start : start + PORTION] for start in range(0, len(clients), PORTION))
