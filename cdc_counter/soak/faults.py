"""Breaks things at random moments, and watches how long it takes until all is well again."""

import asyncio
import time
from collections.abc import Iterable

import psycopg
from redis.exceptions import RedisError

from cdc_counter.errors import CdcCounterError
from cdc_counter.soak.injection import Injector
from cdc_counter.soak.observation import unix_now
from cdc_counter.soak.record import FindingKind, Record
from cdc_counter.soak.rest import Rest
from cdc_counter.soak.schedule import Fault


class Faults:
    """One fault at a time. Recovered: it streams, every counter is live, what was committed meanwhile is applied."""

    def __init__(self, injector: Injector, rest: Rest, record: Record) -> None:
        self._injector = injector
        self._rest = rest
        self._record = record

    async def run(self, faults: Iterable[Fault]) -> None:
        """Inject one after the other, until cancelled."""
        for fault in faults:
            await asyncio.sleep(fault.pause)
            async with self._rest.calm:
                await self._one(fault)

    async def _one(self, fault: Fault) -> None:
        self._record.doing = fault.kind.value
        self._record.fault(fault.kind)
        try:
            await self._injector.inject(fault)
        except (CdcCounterError, psycopg.Error, RedisError) as error:
            # Such as a server that is still starting. It is no fault of what is tested.
            self._record.say(f"{fault.kind}: not done: {error}")
        started, since = time.monotonic(), unix_now()
        missing = await self._rest.recovery(await self._rest.end_of_wal(), since)
        self._record.doing = ""
        if missing is None:
            self._record.recovered(fault.kind, time.monotonic() - started)
        elif not self._record.suspected:
            self._record.find(FindingKind.NOT_RECOVERED, f"after {fault.kind}: {missing}")
