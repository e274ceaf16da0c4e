"""Compares a counter's tallies with a recount at one commit, while writers write and the stream goes on.

Owns the order of steps: snapshot, wait until the tallies hold everything it sees, read them, recount. What is found is
a pure function of what was read (`core.drift`). A difference counts as drift only when a second comparison finds the
same one; and nothing is said of a counter that changed its state meanwhile.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.drift import Comparison, KeyDrift, confirmed
from cdc_counter.core.lsn import ZERO, Lsn
from cdc_counter.core.paging import NamedBuckets, PageRequest, PartOfScope, TallyPage, WholeScopes
from cdc_counter.core.recent import add_up
from cdc_counter.core.verification import Verdict, Verification
from cdc_counter.core.watermark import Watermark
from cdc_counter.errors import CdcCounterError, InconclusiveError, UnfitTallyError
from cdc_counter.runtime.applier import SupersededError
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.edges import Observer, Recount, Recounter, TallyPages
from cdc_counter.runtime.lineage import Lineage

_CHUNK: Final = 400
"""Counted rows between two looks at other tasks: about a millisecond."""

_NAMED: Final = 1000
"""Buckets asked for by name in one page."""

VerifyProgress = Callable[[str, str, int, int], None]
"""Called with counter, what is being done, how much is done and about how much there is to do (0: unknown)."""


@dataclass(frozen=True, slots=True)
class _Found:
    """One comparison: `drift` is complete."""

    lsn: Lsn
    keys: int
    drift: list[KeyDrift]


class Verifier:
    """Verifies one counter at a time through a running consumer; changes nothing."""

    def __init__(
        self,
        consumer: Consumer,
        recounter: Recounter,
        observer: Observer,
        pages: TallyPages,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer = consumer
        self._recounter = recounter
        self._observer = observer
        self._pages = pages
        self._now = now

    async def verify(self, name: str, on_progress: VerifyProgress, scope: str | None = None) -> Verification:
        """Return what was found; errors that leave it open are a verdict of their own.

        Raises CdcCounterError for a counter that does not exist or whose recount is impossible.
        """
        started = time.perf_counter()
        record = self._consumer.records.get(name)
        if record is None:
            raise CdcCounterError(
                f"counter {name!r} is not installed", hint="check its name, or run 'cdc-counter apply'"
            )
        found, verdict, reason, drift = None, Verdict.EQUAL, "", []
        try:
            found = await self._compare(record, scope, on_progress)
            if found.drift:
                again = await self._compare(record, scope, on_progress)
                drift = confirmed(found.drift, again.drift)
                verdict = Verdict.DRIFT if drift else Verdict.INCONCLUSIVE
                if not drift:
                    reason = f"{UNCONFIRMED}: {found.drift[0]}"
                found = again
        except UnfitTallyError as error:
            verdict, reason = Verdict.DRIFT, str(error)
        except CdcCounterError as error:
            if not error.retry:
                raise
            verdict, reason = Verdict.INCONCLUSIVE, str(error)
        return Verification(
            counter=name,
            counter_id=record.id,
            since=record.since,
            verdict=verdict,
            at=self._now(),
            seconds=time.perf_counter() - started,
            lsn=str(found.lsn) if found else "",
            keys=found.keys if found else 0,
            drifted=len(drift),
            drifts=tuple(drift),
            scope=scope,
            reason=reason,
        )

    async def _compare(self, record: CounterRecord, scope: str | None, on_progress: VerifyProgress) -> _Found:
        self._require_unchanged(record)
        name = record.name
        on_progress(name, "taking a snapshot", 0, 0)
        lineage = await self._consumer.between_steps(ZERO, self._current_lineage)
        await self._consumer.see_a_snapshot()
        # Held from before the snapshot: what is let go by a newer one would be missing from the comparison.
        with ExitStack() as held:
            held.enter_context(lineage.holding())
            async with self._recounter.open(name) as recount:
                if recount.counter_id != record.id:
                    raise InconclusiveError(f"counter {name} was altered, and is not known yet as what it is now")
                # Flushes the WAL up to the snapshot's position, so that a quiet database reaches it, too.
                await self._observer.heartbeat()
                await self._consumer.between_steps(recount.lsn, self._current_lineage)
                reading = _Reading(self._consumer, self._pages, lineage, record, recount)
                comparison = await reading.all_tallies(scope, on_progress)
                held.close()
                counted = 0
                on_progress(name, "counting rows", 0, recount.estimated_rows)
                async for rows in recount.truth(name, _CHUNK, scope):
                    comparison.add_truth(rows)
                    counted += len(rows)
                    await asyncio.sleep(0)
                    on_progress(name, "comparing keys", counted, comparison.keys)
        self._require_unchanged(record)
        return _Found(recount.lsn, comparison.keys, comparison.drift())

    async def _current_lineage(self) -> Lineage:
        session = self._consumer.session
        if session is None:
            raise SupersededError("the session ended")
        return session.applier.lineage

    def _require_unchanged(self, record: CounterRecord) -> None:
        current = self._consumer.records.get(record.name)
        if current is None:
            raise InconclusiveError(f"counter {record.name} was removed")
        if not current.verifiable:
            raise InconclusiveError(f"counter {record.name} is {current.state}", hint="wait until it is live")
        if (current.id, current.since, current.state) != (record.id, record.since, record.state):
            raise InconclusiveError(f"counter {record.name} became {current.state} meanwhile")


UNCONFIRMED: Final = "a difference was not there when looked at again"


class _Reading:
    """Reads all tallies of one counter, page by page, each with what the snapshot does not see of it."""

    def __init__(
        self, consumer: Consumer, pages: TallyPages, lineage: Lineage, record: CounterRecord, recount: Recount
    ) -> None:
        self._consumer = consumer
        self._pages = pages
        self._lineage = lineage
        self._record = record
        self._recount = recount
        self._comparison = Comparison()
        self._latest = ZERO
        self._whole: set[str] = set()
        self._in_parts: set[str] = set()

    async def all_tallies(self, scope: str | None, on_progress: VerifyProgress) -> Comparison:
        """Return a comparison that waits for the truth."""
        name = self._record.name
        since = (await self._consumer.between_steps(ZERO, self._own_watermark)).lsn
        scopes = [scope] if scope is not None else await self._pages.scopes(name)
        async for request in self._pages.requests(name, scopes):
            await self._take(request)
            on_progress(name, "reading scopes", len(self._whole) + len(self._in_parts), len(scopes))
        # What moved while the scans ran may have slipped through them: it is asked for by name.
        touched = self._lineage.recent.touched(self._record.id, since)
        for request in self._missed(touched, scope):
            await self._take(request)
        # Whoever else moves the watermark makes our next step fail: having come this far, every page was ours.
        await self._consumer.between_steps(self._latest, self._own_watermark)
        return self._comparison

    async def _take(self, request: PageRequest) -> None:
        page = await self._page(request)
        self._add(request, page)
        while isinstance(request, PartOfScope) and page.cursor:
            request = PartOfScope(request.scope, page.cursor)
            page = await self._page(request)
            self._add(request, page)

    async def _page(self, request: PageRequest) -> TallyPage:
        name = self._record.name
        page = await self._pages.page(name, request)
        if page.watermark.partial is not None:
            # Between the parts of a huge transaction nothing can be compared: read when it is whole.
            page = await self._consumer.between_steps(ZERO, lambda: self._pages.page(name, request))
        if page.epoch != self._lineage.epoch.identity or page.watermark.partial is not None:
            raise InconclusiveError(f"another epoch began while {name} was read")
        if page.watermark.lsn < self._recount.lsn:
            raise InconclusiveError(f"redis went back to {page.watermark.lsn} while {name} was read")
        self._latest = max(self._latest, page.watermark.lsn)
        return page

    def _add(self, request: PageRequest, page: TallyPage) -> None:
        unseen = self._lineage.unseen(self._recount.snapshot, self._record.id, page.watermark.lsn)
        hidden = add_up(unseen, self._record.id)
        whole = isinstance(request, WholeScopes)
        for scope, values in page.tallies.items():
            self._comparison.add_tally(scope, values, hidden.get((self._record.id, scope), {}), whole=whole)
            (self._whole if whole else self._in_parts).add(scope)

    def _missed(self, touched: Mapping[str, set[str]], scope: str | None) -> list[PageRequest]:
        requests: list[PageRequest] = []
        for name, buckets in touched.items():
            if name in self._whole or (scope is not None and name != scope):
                continue
            if name not in self._in_parts:
                requests.append(WholeScopes((name,)))
                continue
            names = sorted(buckets)
            chunks = range(0, len(names), _NAMED)
            requests += [NamedBuckets(name, tuple(names[first : first + _NAMED])) for first in chunks]
        return requests

    async def _own_watermark(self) -> Watermark:
        session = self._consumer.session
        if session is None or session.applier.lineage is not self._lineage:
            raise SupersededError("the session ended")
        return self._lineage.watermark


def no_progress(_counter: str, _what: str, _done: int, _total: int) -> None:
    """Tell nobody."""
