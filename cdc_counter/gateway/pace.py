"""When a room may be sent: the first change after a quiet moment at once, what follows together, a tick later.

A room is taken at most once per tick, however often it changes, and no room waits for the tick of another one.
Knows nothing of clients or sockets; the time is told.
"""

from collections import deque

from cdc_counter.gateway.rooms import RoomKey


class Pace:
    """The rooms that have changed, and those that were sent less than `seconds` ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[RoomKey, None] = {}
        self._later: set[RoomKey] = set()
        """Changed, but still resting."""
        self._resting: set[RoomKey] = set()
        self._rests: deque[tuple[float, RoomKey]] = deque()
        """When each rest ends. All are equally long, so they end in the order in which they began."""

    def changed(self, key: RoomKey) -> None:
        """Let a room be sent as soon as it may."""
        if key in self._resting:
            self._later.add(key)
        else:
            self._due[key] = None

    def forget(self, key: RoomKey) -> None:
        """Send nothing of a room; the rest that it has begun goes on."""
        self._due.pop(key, None)
        self._later.discard(key)

    def take(self, now: float) -> list[RoomKey]:
        """Return the rooms to be sent now, longest waiting first; they rest from now on."""
        while self._rests and self._rests[0][0] <= now:
            _, key = self._rests.popleft()
            self._resting.remove(key)
            if key in self._later:
                self._later.remove(key)
                self._due[key] = None
        taken = list(self._due)
        self._due.clear()
        self._resting.update(taken)
        self._rests.extend((now + self._seconds, key) for key in taken)
        return taken

    def next_at(self) -> float | None:
        """Return from when on there is something to take; None while nothing has changed."""
        if self._due:
            return 0.0
        return self._rests[0][0] if self._later else None
