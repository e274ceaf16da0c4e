"""Answers what commands ask of the running consumer: to verify and to repair.

One counter is dealt with at a time, whoever asks for it. While it works, and while the work waits for its turn or for a
server, the asker hears of it every second; so silence means that this process is gone.
"""

import asyncio
import contextlib
import logging
from typing import Final, Protocol

from cdc_counter.core.request import Answer, Failed, Finished, Progress, Request, Wish
from cdc_counter.core.verification import Verification
from cdc_counter.errors import CdcCounterError
from cdc_counter.runtime.backoff import pause
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.failures import in_own_task
from cdc_counter.runtime.reconciler import Reconciler
from cdc_counter.runtime.verifier import VerifyProgress

_log = logging.getLogger(__name__)

_BEAT_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.2
_MOST: Final = 8
"""Requests served side by side: they wait for each other, and each must hear so."""

_ATTEMPTS: Final = 4
"""Tries at what is inconclusive, within about a second."""


async def fulfil(reconciler: Reconciler, request: Request, name: str, on_progress: VerifyProgress) -> Verification:
    """Do what is asked with one counter."""
    match request.wish:
        case Wish.VERIFY:
            return await reconciler.verify(name, on_progress, scope=request.scope, attempts=_ATTEMPTS)
        case Wish.REPAIR:
            return await reconciler.repair(name, request.by, on_progress, attempts=_ATTEMPTS)


class Requests(Protocol):
    """Where requests come from and answers go."""

    async def take(self) -> Request | None:
        """Wait a moment for the next request."""

    async def tell(self, request: Request, answer: Answer) -> None:
        """Answer."""


class Answering:
    """Runs beside a consumer; only who streams answers."""

    def __init__(self, consumer: Consumer, reconciler: Reconciler, requests: Requests) -> None:
        self._consumer = consumer
        self._reconciler = reconciler
        self._requests = requests

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop`."""
        serving: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                if self._consumer.session is None or len(serving) >= _MOST:
                    await pause(_LOOK_SECONDS, stop)
                    continue
                try:
                    request = await self._requests.take()
                except CdcCounterError as error:
                    _log.info("waiting for requests: %s", error)
                    await pause(_LOOK_SECONDS, stop)
                    continue
                if request is not None:
                    task = group.create_task(self._served(request), name=f"request {request.id}")
                    serving.add(task)
                    task.add_done_callback(serving.discard)

    async def _served(self, request: Request) -> None:
        try:
            await in_own_task(self._serve(request), "request")
        except CdcCounterError as error:
            _log.info("answering %s: %s", request.by, error)

    async def _serve(self, request: Request) -> None:
        _log.info("%s asks to %s %s", request.by, request.wish.value, ", ".join(request.counters) or "every counter")
        latest = [Progress("", "waiting for its turn")]
        await self._requests.tell(request, latest[0])
        async with asyncio.TaskGroup() as group:
            beat = group.create_task(self._beat(request, latest), name="beat")
            try:
                await self._work(request, latest)
                await self._requests.tell(request, Finished())
            except CdcCounterError as error:
                await self._requests.tell(request, Failed(str(error), error.hint, int(error.exit_code)))
            finally:
                beat.cancel()

    async def _work(self, request: Request, latest: list[Progress]) -> None:
        def note(counter: str, what: str, done: int, total: int) -> None:
            latest[0] = Progress(counter, what, done, total)

        for name in request.counters or sorted(self._consumer.records):
            found = await fulfil(self._reconciler, request, name, note)
            await self._requests.tell(request, found.shortened())

    async def _beat(self, request: Request, latest: list[Progress]) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            progress = latest[0]
            if self._consumer.session is None:
                progress = Progress(progress.counter, f"waiting: {self._consumer.detail or 'connecting'}")
            with contextlib.suppress(CdcCounterError):
                await self._requests.tell(request, progress)
