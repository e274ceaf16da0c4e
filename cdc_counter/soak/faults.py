"""Breaks things at random moments, and watches how long it takes until all is well again."""

import asyncio
import time
from collections.abc import Iterable, Sequence

import psycopg
from redis.exceptions import RedisError

from cdc_counter.errors import CdcCounterError
from cdc_counter.soak.injection import Injector
from cdc_counter.soak.observation import unix_now
from cdc_counter.soak.record import FindingKind, Record
from cdc_counter.soak.rest import Rest
from cdc_counter.soak.schedule import Fault, FaultKind


class Faults:
    """Recovered is: it streams, every counter is live, what was committed meanwhile is applied."""

    def __init__(self, injector: Injector, rest: Rest, record: Record) -> None:
        self._injector = injector
        self._rest = rest
        self._record = record

    async def run(self, faults: Iterable[Sequence[Fault]]) -> None:
        """Inject one after the other, or those together that come together, until cancelled."""
        for together in faults:
            await asyncio.sleep(together[0].pause)
            async with self._rest.calm:
                await self._inject(together)

    async def _inject(self, together: Sequence[Fault]) -> None:
        over: list[tuple[FaultKind, float]] = []
        for number, fault in enumerate(together):
            if number:
                await asyncio.sleep(fault.pause)
            if await self._one(fault):
                over.append((fault.kind, time.monotonic()))
        since = unix_now()
        missing = await self._rest.recovery(await self._rest.end_of_wal(), since)
        self._record.doing = ""
        if missing is None:
            for kind, ended in over:
                self._record.recovered(kind, time.monotonic() - ended)
        elif not self._record.suspected:
            kinds = " and ".join(fault.kind for fault in together)
            self._record.find(FindingKind.NOT_RECOVERED, f"after {kinds}: {missing}")

    async def _one(self, fault: Fault) -> bool:
        """Inject it; returns whether that could be done."""
        self._record.doing = fault.kind.value
        began = self._record.seconds
        try:
            await self._injector.inject(fault)
        except (CdcCounterError, psycopg.Error, RedisError) as error:
            # Such as a server that is still starting. It is no fault of what is tested.
            self._record.say(f"{fault.kind}: not done: {error}")
            return False
        self._record.fault(fault.kind, began)
        return True
