"""Takes readings: on request, and for rooms that were opened or must be read again.

Readings of one epoch never go back: one with an older watermark than was seen before (a Redis that lost its last
writes, a replica that lags) is refused until the numbers are there again or a new epoch says that they went. All who
wait for a room share one reading; how many run at once is bounded, so that a Gap does not become a storm on Redis.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final

from cdc_counter.core.definition import NO_KEY
from cdc_counter.core.lsn import ZERO, Lsn
from cdc_counter.core.reading import Reading, UnknownCounterError
from cdc_counter.errors import UnreachableError
from cdc_counter.gateway.fanout import Delivery, Fanout
from cdc_counter.gateway.rooms import Room, RoomKey
from cdc_counter.gateway.source import TallySource

_log = logging.getLogger(__name__)

READERS: Final = 16
"""Readings at once: enough to hide a round trip, few enough not to starve the consumer on the same Redis."""

RETRY_SECONDS: Final = 0.1
"""How long a reader rests after a reading that failed: all of them together try 160 times a second, however many rooms
there are."""

_PATIENCE: Final = 5.0
"""Seconds for a turn: as long as Redis itself may take to answer."""


_WENT_BACK: Final = "wait for the consumer to notice what redis has lost, or ask 'cdc-counter status'"


class Outcome(Enum):
    """What became of a wish to see a room."""

    READY = auto()
    UNKNOWN = auto()
    UNAVAILABLE = auto()


class Turns:
    """Lets READERS at once ask Redis, each over a connection of its own. The others wait, but not for ever."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(READERS)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a turn; raises UnreachableError when those before take too long."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._free.acquire()
        except TimeoutError:
            raise UnreachableError(f"what was asked before this took more than {_PATIENCE:g} s") from None
        try:
            yield
        finally:
            self._free.release()


class Readings:
    """Checked access to the source."""

    def __init__(self, source: TallySource) -> None:
        self._source = source
        self._looking = Turns()
        self._epoch = ""
        self._reached: Lsn = ZERO
        self._over: set[str] = set()
        """Epochs that were followed by another one."""

    async def has_one_room(self, counter: str) -> bool:
        """Say whether there is a counter of that name, and without scopes. Raises UnreachableError."""
        async with self._looking.one():
            info = await self._source.counter(counter)
        return info is not None and not info.scoped

    async def read(self, key: RoomKey) -> Reading | None:
        """Return a reading no older than any before it in its epoch, None where there can be no such room.

        Raises UnreachableError.
        """
        # Readings overtake each other: one may only be compared with what was known when it was begun.
        epoch, floor = self._epoch, self._reached
        try:
            reading = await self._source.read(key.counter, key.scope)
        except UnknownCounterError:
            return None
        if reading.epoch == epoch:
            refuse_older(reading, floor)
        elif reading.epoch in self._over:
            raise UnreachableError(f"redis went back to epoch {reading.epoch!r}, which was over", hint=_WENT_BACK)
        if reading.epoch == self._epoch:
            self._reached = max(self._reached, reading.version)
        elif epoch == self._epoch:
            self._over.add(epoch)
            self._epoch, self._reached = reading.epoch, reading.version
        return reading if reading.scoped or key.scope == NO_KEY else None


def refuse_older(reading: Reading, floor: Lsn) -> None:
    """Raise UnreachableError when a reading is older than `floor`, known to be reached in the same epoch."""
    if reading.version < floor:
        raise UnreachableError(
            f"redis went back from {floor} to {reading.version} in one epoch, reading {reading.counter!r}",
            hint=_WENT_BACK,
        )


class RoomLoader:
    """Fills rooms. `announce` is called when something is to be flushed, `farewell` with a retired room's last word."""

    def __init__(
        self,
        readings: Readings,
        fanout: Fanout,
        announce: Callable[[], None],
        farewell: Callable[[Delivery], None],
    ) -> None:
        self._readings = readings
        self._fanout = fanout
        self._announce = announce
        self._farewell = farewell
        self._wanted: asyncio.Queue[Room] = asyncio.Queue()
        # Rooms that are queued, being read or about to be tried again: never two readings of one room at once.
        self._ordered: set[Room] = set()
        self._waiting: dict[Room, asyncio.Future[Outcome]] = {}
        self._failing = False

    def reload(self, rooms: list[Room]) -> None:
        """Read these rooms again, now."""
        for room in rooms:
            self._order(room)

    async def ready(self, room: Room) -> Outcome:
        """Wait until a room is ready to be shown or is known not to be."""
        while not room.ready:
            waiting = self._waiting.get(room)
            if waiting is None:
                waiting = self._waiting[room] = asyncio.get_running_loop().create_future()
                self._order(room)
            outcome = await asyncio.shield(waiting)
            if outcome is not Outcome.READY:
                return outcome
        return Outcome.READY

    async def run(self) -> None:
        """Take readings for ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(READERS):
                group.create_task(self._work(), name=f"gateway reader {number}")

    async def _work(self) -> None:
        while True:
            room = await self._wanted.get()
            if self._fanout.room(room.key) is not room:
                self._settle(room, Outcome.UNAVAILABLE)
                continue
            try:
                outcome = await self._load(room)
            except UnreachableError as error:
                # Whoever waits for it goes on waiting: its number may be there in a moment.
                self._note(error)
                self._wanted.put_nowait(room)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._note(None)
            if outcome is None:
                self._wanted.put_nowait(room)
            else:
                self._settle(room, outcome)

    def _note(self, error: UnreachableError | None) -> None:
        # Thousands of rooms fail together and try again and again: one line when it begins, one when it is over.
        if error is not None and not self._failing:
            _log.warning("reading rooms fails, trying again: %s", error)
        elif error is None and self._failing:
            _log.info("rooms can be read again")
        self._failing = error is not None

    async def _load(self, room: Room) -> Outcome | None:
        """Take one reading; None when the room was declared out of date while it was taken."""
        generation = room.generation
        reading = await self._readings.read(room.key)
        if reading is None:
            if self._fanout.room(room.key) is room:
                self._farewell(self._fanout.retire(room))
            return Outcome.UNKNOWN
        if room.generation != generation:
            return None
        if self._fanout.room(room.key) is not room:
            return Outcome.UNAVAILABLE
        if reading.epoch == room.epoch:
            # Changes may have taken the room beyond every reading so far.
            refuse_older(reading, room.version)
        self._fanout.install(room, reading)
        self._announce()
        return Outcome.READY

    def _order(self, room: Room) -> None:
        if room not in self._ordered:
            self._ordered.add(room)
            self._wanted.put_nowait(room)

    def _settle(self, room: Room, outcome: Outcome) -> None:
        self._ordered.discard(room)
        self._answer(room, outcome)

    def _answer(self, room: Room, outcome: Outcome) -> None:
        waiting = self._waiting.pop(room, None)
        if waiting is not None:
            waiting.set_result(outcome)
