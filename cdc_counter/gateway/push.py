"""The Socket.IO side: lets clients in, answers `subscribe` and `unsubscribe`, follows the feed and flushes.

The decisions are elsewhere: what a token grants in `grants`, who is told what in `fanout`, limits in `engine`.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import socketio

from cdc_counter import failpoints
from cdc_counter.config.gateway import GatewaySettings
from cdc_counter.core.definition import NO_KEY
from cdc_counter.core.reading import FeedEntry, Gap
from cdc_counter.errors import UnreachableError
from cdc_counter.failpoints import Failpoint
from cdc_counter.gateway.engine import NAMESPACE, Engine
from cdc_counter.gateway.fanout import PORTION, Delivery, Fanout
from cdc_counter.gateway.grants import Authority, Grant, UnauthorizedError
from cdc_counter.gateway.messages import (
    NOT_FOUND,
    TOO_MANY,
    UNAVAILABLE,
    InvalidArgumentError,
    invalid,
    scope_named,
    subscription_room,
)
from cdc_counter.gateway.readings import Outcome, Readings, RoomLoader
from cdc_counter.gateway.rooms import Room, RoomKey
from cdc_counter.gateway.source import TallySource
from cdc_counter.metrics import Metrics

_log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 5.0
"""How long `subscribe` may wait for a reading before it is told to come again."""

BEHIND_SECONDS: Final = 60.0
"""How long a client may take nothing at all while there is something for it."""

FOLLOW_AGAIN_SECONDS: Final = 0.5


@dataclass(slots=True)
class _Client:
    """Who has been let in, over which connection; `cutter` ends it when its token does."""

    connection: str
    grant: Grant
    cutter: asyncio.TimerHandle | None
    asking: int = 0
    """How many of its subscribes are not answered yet."""


class Push(socketio.AsyncNamespace):  # type: ignore[misc]  # the library has no types
    """The default namespace, and the tasks that feed it."""

    def __init__(
        self,
        settings: GatewaySettings,
        source: TallySource,
        readings: Readings,
        authority: Authority,
        engine: Engine,
        metrics: Metrics,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        behind_seconds: float = BEHIND_SECONDS,
    ) -> None:
        super().__init__(NAMESPACE)
        # An honest client asks once for each of its rooms, and perhaps for others in their place.
        self._most_asking = 2 * settings.max_subscriptions
        self._answer_seconds = answer_seconds
        self._behind_seconds = behind_seconds
        self._source = source
        self._authority = authority
        self._engine = engine
        self._metrics = metrics
        self._fanout = Fanout(settings.max_subscriptions, settings.tick_ms / 1000)
        self._something_new = asyncio.Event()
        self._farewells: list[Delivery] = []
        self._expired: asyncio.Queue[str] = asyncio.Queue()
        self._clients: dict[str, _Client] = {}
        self._followed = False
        self._readings = readings
        self._loader = RoomLoader(readings, self._fanout, self._something_new.set, self._say_farewell)
        engine.server.register_namespace(self)

    async def run(self) -> None:
        """Follow, read, flush and cut, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="gateway feed")
            group.create_task(self._loader.run(), name="gateway readings")
            group.create_task(self._flush_for_ever(), name="gateway flush")
            group.create_task(self._cut_expired(), name="gateway expiry")

    async def trigger_event(self, event: Any, *args: Any) -> Any:
        """Dispatch what the library reports; the documented place for a dispatch of one's own.

        A client may name its events as it likes, `connect` and `disconnect` too. The library's own come while the
        client is not (or no longer) connected and bring the library's own environ; a client's can't.
        """
        client: str = args[0]
        server = self._engine.server
        if not server.manager.is_connected(client, NAMESPACE):
            if event == "connect" and args[1] is server.get_environ(client):
                self._let_in(client, args[2])
            elif event == "disconnect":
                self._let_go(client)
            return None
        if event == "subscribe":
            return await self._subscribe(client, args[1:])
        if event == "unsubscribe":
            return self._unsubscribe(client, args[1:])
        return invalid(InvalidArgumentError("unknown event"))

    def _let_in(self, client: str, auth: object) -> None:
        try:
            grant = self._authority.grant(auth.get("token") if isinstance(auth, dict) else None)
        except UnauthorizedError as error:
            self._metrics.clients_refused.labels("unauthorized").inc()
            _log.info("client refused: %s", error)
            raise socketio.exceptions.ConnectionRefusedError("unauthorized", {"reason": str(error)}) from error
        cutter = None
        if grant.expires_at is not None:
            left = grant.expires_at - time.time()
            cutter = asyncio.get_running_loop().call_later(left, self._expire, client)
        connection = self._engine.server.manager.eio_sid_from_sid(client, NAMESPACE)
        self._clients[client] = _Client(connection, grant, cutter)
        self._fanout.enter(client)
        self._count()

    def _let_go(self, client: str) -> None:
        known = self._clients.pop(client, None)
        if known is not None and known.cutter is not None:
            known.cutter.cancel()
        self._fanout.drop(client)
        self._count()

    async def _subscribe(self, client: str, arguments: tuple[object, ...]) -> dict[str, Any]:
        try:
            key = subscription_room(arguments)
        except InvalidArgumentError as error:
            return invalid(error)
        known = self._clients.get(client)
        if known is None or not known.grant.allows(key):
            self._metrics.clients_refused.labels("forbidden").inc()
            return {"error": NOT_FOUND}
        if key.scope == NO_KEY and not scope_named(arguments):
            try:
                if not await self._readings.has_one_room(key.counter):
                    return {"error": NOT_FOUND}
            except UnreachableError:
                return {"error": UNAVAILABLE}
        # The place is taken before the room is read: what changes from here on is not missed.
        room = self._fanout.join(client, key)
        if room is None:
            self._metrics.clients_refused.labels("subscriptions").inc()
            return {"error": TOO_MANY}
        self._count()
        known.asking += 1
        try:
            outcome = await self._outcome(known, room)
        finally:
            known.asking -= 1
        return self._answer(client, room, outcome)

    async def _outcome(self, known: _Client, room: Room) -> Outcome:
        """Wait until the room can be shown and there is place for its snapshot."""
        connection = known.connection
        if known.asking > self._most_asking:
            await self._engine.cut(connection, "asks without reading")
            return Outcome.UNAVAILABLE
        while True:
            try:
                async with asyncio.timeout(self._answer_seconds):
                    outcome = await self._loader.ready(room)
            except TimeoutError:
                return Outcome.UNAVAILABLE
            if self._engine.capacity(connection, behind=False):
                return outcome
            try:
                async with asyncio.timeout(self._behind_seconds):
                    if not await self._engine.emptied(connection):
                        return Outcome.UNAVAILABLE
            except TimeoutError:
                await self._engine.cut(connection, "does not read")
                return Outcome.UNAVAILABLE

    def _answer(self, client: str, room: Room, outcome: Outcome) -> dict[str, Any]:
        # Nothing may be awaited between the snapshot and its acknowledgement: later changes are queued behind it.
        if outcome is Outcome.UNKNOWN:
            return {"error": NOT_FOUND}
        # The room may have been closed, and opened anew by a later subscribe, which then answers for it.
        if self._fanout.room(room.key) is room:
            if outcome is Outcome.UNAVAILABLE:
                self._leave(client, room.key)
                return {"error": UNAVAILABLE}
            snapshot = self._fanout.admit(client, room.key)
            if snapshot is not None:
                return snapshot
        return invalid(InvalidArgumentError("unsubscribed meanwhile"))

    def _unsubscribe(self, client: str, arguments: tuple[object, ...]) -> dict[str, Any]:
        try:
            key = subscription_room(arguments)
        except InvalidArgumentError as error:
            return invalid(error)
        if not self._leave(client, key):
            return {"error": NOT_FOUND}
        return {"counter": key.counter, "scope": key.scope}

    def _leave(self, client: str, key: RoomKey) -> bool:
        left = self._fanout.leave(client, key)
        self._count()
        return left

    async def _follow(self) -> None:
        while True:
            try:
                async for entries in self._source.follow():
                    self._take(entries)
            except UnreachableError as error:
                _log.warning("following the feed failed, trying again: %s", error)
            self._followed = False
            await asyncio.sleep(FOLLOW_AGAIN_SECONDS)

    def _take(self, entries: list[FeedEntry]) -> None:
        if not self._followed:
            # Whatever was read before the starting point was fixed may have missed entries since.
            self._followed = True
            entries = [Gap(sequence=0), *entries]
        self._loader.reload(self._fanout.take(entries))
        if self._fanout.next_flush_at() is not None:
            self._something_new.set()

    async def _flush_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._fanout.next_flush_at()):
                    await self._something_new.wait()
            self._something_new.clear()
            await self._flush()

    async def _flush(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._farewells:
            await self._deliver(self._farewells.pop(0))
        failpoints.reach(Failpoint.BEFORE_EMIT)
        looked_at = 0
        for portion in self._fanout.flush(self._capacity, now):
            for delivery in portion.deliveries:
                await self._deliver(delivery)
            looked_at += portion.looked_at
            if looked_at >= PORTION:
                looked_at = 0
                await asyncio.sleep(0)
        for client in self._fanout.stuck(now, self._behind_seconds):
            await self._engine.cut(self._clients[client].connection, "does not read")

    async def _deliver(self, delivery: Delivery) -> None:
        connections = [self._clients[client].connection for client in delivery.clients if client in self._clients]
        await self._engine.send(connections, delivery.event, delivery.body)
        self._metrics.events_sent.labels(delivery.event.value).inc(len(connections))

    def _capacity(self, client: str, behind: bool) -> int:
        return self._engine.capacity(self._clients[client].connection, behind=behind)

    def _say_farewell(self, delivery: Delivery) -> None:
        self._farewells.append(delivery)
        self._something_new.set()

    def _expire(self, client: str) -> None:
        # What it may no longer see stops at this moment; saying goodbye may take a little longer.
        self._fanout.drop(client)
        self._expired.put_nowait(client)

    async def _cut_expired(self) -> None:
        while True:
            client = await self._expired.get()
            self._metrics.clients_refused.labels("expired").inc()
            await self._engine.server.disconnect(client, namespace=NAMESPACE)

    def _count(self) -> None:
        self._metrics.clients.set(len(self._clients))
        self._metrics.subscriptions.set(self._fanout.subscriptions)
