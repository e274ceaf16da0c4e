"""One replication session: receive, apply, make durable, confirm, side by side, until it ends.

Receiving never waits for applying (but for bounded memory), and the status updates that keep the connection alive wait
for neither, so that a long apply or a huge transaction is not cut off by wal_sender_timeout. What is confirmed is
what Redis holds as durably as the confirm policy asks, never more.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from cdc_counter import failpoints
from cdc_counter.core import intake
from cdc_counter.core.assembly import Assembly
from cdc_counter.core.batch import MOST_TOGETHER, Batcher
from cdc_counter.core.frames import StandbyStatusUpdate
from cdc_counter.core.progress import Progress
from cdc_counter.errors import CdcCounterError, UnreachableError
from cdc_counter.failpoints import Failpoint
from cdc_counter.runtime.applier import Applier
from cdc_counter.runtime.confirmation import Confirmation
from cdc_counter.runtime.edges import Stream

_log = logging.getLogger(__name__)

_READ_LIMIT: Final = 65_536
"""Bytes taken before other tasks get their turn: a few milliseconds of decoding, whatever the size of rows."""

_READY_BATCHES: Final = 4 * MOST_TOGETHER
"""Reading pauses when this many batches' keys wait: two being folded, one in flight, one to spare."""

_CONFIRM_PAUSE: Final = 0.1
"""Seconds between confirmations that nobody asked for: each costs the walsender a wake-up."""

_IDLE_PAUSE: Final = 0.01
"""Seconds from a step to one that only moves the watermark, unless somebody waits for it. A server says how far it has
read after each commit, also of other tables and databases: a script call for each would take a third of a core at
1,000 commits a second that are none of ours."""

_STRANGE_PAUSE: Final = 60.0
"""Seconds between log lines about strange notices: whoever writes them could fill a disk with what is said of them."""

_DRAIN_SECONDS: Final = 8.0
"""How long a stop waits for Redis; what is not applied by then is sent again after the next start."""


class Session:
    """Streams from a started `stream` into `applier`. `feedback_seconds` must be well below wal_sender_timeout.

    `watch_tallies` runs beside it until its event is set, and ends it with what it raises.
    """

    def __init__(
        self,
        stream: Stream,
        batcher: Batcher,
        assembly: Assembly,
        applier: Applier,
        progress: Progress,
        confirmation: Confirmation,
        *,
        max_cost: int,
        feedback_seconds: float,
        silence_seconds: float,
        now: Callable[[], float],
        watch_tallies: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    ) -> None:
        self._stream = stream
        self._batcher = batcher
        self._assembly = assembly
        self.applier = applier
        self.progress = progress
        self.confirmation = confirmation
        self._max_ready = _READY_BATCHES * max_cost
        self._feedback_seconds = feedback_seconds
        self._silence_seconds = silence_seconds
        self._now = now
        self._watch_tallies = watch_tallies
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._reply = asyncio.Event()
        self._received_all = False
        self._foreign_rows = 0
        self._strange_notices = 0
        self._strange_said_at = -_STRANGE_PAUSE
        self._drained = asyncio.Event()
        self._finished = asyncio.Event()
        self._ended_by: CdcCounterError | None = None
        self._heard_at = time.monotonic()
        self._sent_at = 0.0
        self._stepped_at = -_IDLE_PAUSE
        self._server_clock = (now(), time.monotonic())

    @property
    def lag(self) -> float:
        """Age of the oldest commit that is received and not applied, seconds by the server's clock; 0 when none is."""
        in_flight = self.applier.in_flight
        oldest = (in_flight.commit_time if in_flight else None) or self._batcher.oldest_commit_time
        if oldest is None:
            return 0.0
        server_time, at = self._server_clock
        return max(0.0, server_time + (time.monotonic() - at) - oldest)

    @property
    def at_rest(self) -> bool:
        """Whether everything received is applied."""
        return self.progress.applied == self.progress.received and self.applier.in_flight is None

    def wake(self) -> None:
        """Make the applying side look for work."""
        self._work.set()

    def end(self, error: CdcCounterError) -> None:
        """Make `run` raise this, whatever it waits for."""
        self._ended_by = error
        self._reply.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Stream until `stop`, then drain and confirm; raises what ended it otherwise."""
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(self._receive(), name="receive")
            group.create_task(self._stop_receiving(stop, receiving), name="stop")
            group.create_task(self._apply(), name="apply")
            group.create_task(self._make_durable(), name="make durable")
            group.create_task(self._confirm(), name="confirm")
            group.create_task(self._watch_tallies(self._finished), name="watch tallies")
        self._tell(reply_requested=False)
        async with asyncio.timeout(self._feedback_seconds + 1):
            await self._stream.finish()

    async def _stop_receiving(self, stop: asyncio.Event, receiving: "asyncio.Task[None]") -> None:
        stopped = asyncio.ensure_future(stop.wait())
        drained = asyncio.ensure_future(self._drained.wait())
        try:
            await asyncio.wait({stopped, drained}, return_when=asyncio.FIRST_COMPLETED)
            self._received_all = True
            receiving.cancel()
            self._work.set()
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._drained.wait()
        except TimeoutError as error:
            raise UnreachableError("redis did not take what was received before the stop") from error
        finally:
            stopped.cancel()
            drained.cancel()

    async def _receive(self) -> None:
        while not self._received_all:
            if self._batcher.ready_cost > self._max_ready:
                self._room.clear()
                await self._room.wait()
            payloads = await self._stream.read(_READ_LIMIT)
            self._heard_at = time.monotonic()
            heard = intake.take(payloads, self._assembly)
            if heard.reply_requested:
                self._reply.set()
            self._server_clock = (heard.sent_at, self._heard_at)
            self._note_foreign_rows()
            self._note_strange_notices()
            self.progress.receive(self._assembly.received)
            self._work.set()
            failpoints.reach(Failpoint.AFTER_RECEIVE)
            await asyncio.sleep(0)

    def _note_foreign_rows(self) -> None:
        found = self._assembly.foreign_rows
        if found > self._foreign_rows:
            _log.warning(
                "%d outbox rows were copied back or restored, and not counted again", found - self._foreign_rows
            )
            self._foreign_rows = found

    def _note_strange_notices(self) -> None:
        found = self._assembly.strange_notices
        if found > self._strange_notices and time.monotonic() - self._strange_said_at >= _STRANGE_PAUSE:
            _log.warning(
                "%d logical messages with the prefix of the outbox are no notices of ours, and ignored: "
                "somebody else writes them",
                found - self._strange_notices,
            )
            self._strange_notices = found
            self._strange_said_at = time.monotonic()

    async def _apply(self) -> None:
        while True:
            self._work.clear()
            if self.applier.has_visitor:
                await self.applier.let_in()
            pause = self._idle_pause()
            step = self._batcher.take() if pause == 0.0 else None
            if step is None:
                if self._received_all:
                    self._drained.set()
                    return
                await self._work_within(pause or None)
                continue
            # A part's LSN is its predecessor's end; a step that only moves the watermark was received as a keepalive.
            self.progress.receive(step.after.lsn)
            await self.applier.apply(step)
            self.confirmation.applied()
            if self._batcher.ready_cost <= self._max_ready // 2:
                self._room.set()
            self._stepped_at = time.monotonic()
            if self._stepped_at - self._sent_at > _CONFIRM_PAUSE:
                self._reply.set()

    def _idle_pause(self) -> float:
        """Return how many seconds the next step is to be put off; 0 for not at all."""
        if not self._batcher.only_idle or self._received_all or self.applier.has_company:
            return 0.0
        return max(0.0, self._stepped_at + _IDLE_PAUSE - time.monotonic())

    async def _work_within(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._work.wait()

    async def _make_durable(self) -> None:
        await self.confirmation.run(self._drained, self._reply.set)
        await self._drained.wait()
        self._finished.set()
        self._reply.set()

    async def _confirm(self) -> None:
        while not self._finished.is_set():
            try:
                async with asyncio.timeout(self._feedback_seconds):
                    await self._reply.wait()
            except TimeoutError:
                pass
            self._reply.clear()
            if self._ended_by is not None:
                raise self._ended_by
            silent = time.monotonic() - self._heard_at
            if silent > self._silence_seconds and self._room_to_read():
                raise UnreachableError(f"no sign of life from the server for {silent:.0f} s")
            # Asking keeps an idle stream moving: the answer tells how far the server has looked.
            self._tell(reply_requested=silent > self._feedback_seconds / 2)

    def _room_to_read(self) -> bool:
        return self._batcher.ready_cost <= self._max_ready

    def _tell(self, *, reply_requested: bool) -> None:
        progress = self.progress
        progress.confirm(progress.durable)
        self._stream.send(
            StandbyStatusUpdate(
                write=progress.received,
                flush=progress.confirmed,
                apply=progress.applied,
                reply_requested=reply_requested,
            ),
            self._now(),
        )
        self._sent_at = time.monotonic()
        failpoints.reach(Failpoint.AFTER_CONFIRM)
