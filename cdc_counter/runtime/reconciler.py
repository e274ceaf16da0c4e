"""Reconcile: verifies counters, draws the consequences, and repairs.

A counter that is found wrong is stale from then on, for everybody to see, until its drift is gone. Repairing subtracts
the drift in one step of Redis that also writes the journal; killed before it, nothing has happened; killed after it,
the next verification finds the counter equal and sets it live. One counter is dealt with at a time.
"""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import orjson

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.drift import KeyDrift
from cdc_counter.core.lsn import ZERO
from cdc_counter.core.outcome import Applied, Move, TallyGroup, repair_field
from cdc_counter.core.reading import CounterState
from cdc_counter.core.verification import Verdict, Verification
from cdc_counter.errors import UnreachableError
from cdc_counter.metrics import Metrics
from cdc_counter.runtime.applier import Applier, SupersededError
from cdc_counter.runtime.backoff import Backoff
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.edges import Tallies, Verifications
from cdc_counter.runtime.verifier import UNCONFIRMED, Verifier, VerifyProgress, no_progress

_log = logging.getLogger(__name__)

_NAMED: Final = 5
"""Wrong keys named in a log line."""

_PAUSE: Final = 0.3
"""Seconds before another attempt at what was inconclusive: most transactions end, most seeds finish meanwhile."""


class Reconciler:
    """Works through a running consumer. `max_repair`: more wrong keys than this are not mended but counted anew."""

    def __init__(
        self,
        consumer: Consumer,
        verifier: Verifier,
        tallies: Tallies,
        verifications: Verifications,
        metrics: Metrics,
        max_repair: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer = consumer
        self._verifier = verifier
        self._tallies = tallies
        self._verifications = verifications
        self._metrics = metrics
        self._max_repair = max_repair
        self._now = now
        self._turn = asyncio.Lock()

    async def verify(
        self, name: str, on_progress: VerifyProgress = no_progress, *, scope: str | None = None, attempts: int = 1
    ) -> Verification:
        """Verify one counter or one scope of it; what is inconclusive is tried again up to `attempts` times.

        Raises CdcCounterError where verifying is impossible.
        """
        async with self._turn:
            return await self._verify(name, on_progress, scope, attempts)

    async def repair(
        self, name: str, by: str, on_progress: VerifyProgress = no_progress, *, attempts: int = 1
    ) -> Verification:
        """Verify one counter, subtract what drift there is, and verify again; returns the last verification.

        `by` is written into the journal.
        """
        async with self._turn:
            found = await self._verify(name, on_progress, None, attempts)
            if found.verdict is not Verdict.DRIFT or not found.drifts:
                return found
            record = self._consumer.records.get(name)
            if found.drifted > self._max_repair:
                await self._rebuild(record)
                return replace(found, reason=f"{found.drifted} keys are wrong: the counter is rebuilt instead")
            await self._consumer.between_steps(ZERO, lambda: self._subtract(record, found.drifts, by))
            _log.warning("repaired %d keys of counter %s, asked by %s", found.drifted, name, by)
            self._metrics.repaired_keys.labels(name).inc(found.drifted)
            after = await self._verify(name, on_progress, None, attempts)
            return replace(after, repaired=found.drifted)

    async def _verify(self, name: str, on_progress: VerifyProgress, scope: str | None, attempts: int) -> Verification:
        found = await self._verifier.verify(name, on_progress, scope)
        for _ in range(attempts - 1):
            if found.verdict is not Verdict.INCONCLUSIVE:
                break
            await asyncio.sleep(_PAUSE)
            found = await self._verifier.verify(name, on_progress, scope)
        self._count(found)
        try:
            await self._consumer.between_steps(ZERO, lambda: self._conclude(found))
        except SupersededError as error:
            _log.info("the verification of %s was not noted: %s", name, error)
        return found

    def _count(self, found: Verification) -> None:
        metrics = self._metrics
        metrics.verifications.labels(found.counter, found.verdict.value).inc()
        metrics.keys_compared.labels(found.counter).inc(found.keys)
        metrics.mismatched_keys.labels(found.counter).inc(found.drifted)
        match found.verdict:
            case Verdict.EQUAL if found.scope is None:
                metrics.verified_at.labels(found.counter).set(found.at)
            case Verdict.DRIFT:
                _log.error("counter %s is wrong: %s", found.counter, described(found))
            case Verdict.INCONCLUSIVE:
                level = logging.ERROR if found.reason.startswith(UNCONFIRMED) else logging.INFO
                _log.log(level, "verifying %s: %s", found.counter, found.reason)
            case _:
                pass

    async def _conclude(self, found: Verification) -> None:
        """Let readers know. Runs between two steps; does nothing when the counter has become another one meanwhile."""
        record = self._consumer.records.get(found.counter)
        if record is None or (record.id, record.since) != (found.counter_id, found.since) or not record.verifiable:
            return
        applier = self._applier()
        match found.verdict:
            case Verdict.DRIFT if found.drifts:
                # Written again and again: a Redis that failed over may have lost this and nothing else.
                stale = record.moved_to(CounterState.STALE, self._now(), described(found), drifted=found.drifted)
                await applier.change(stale)
            case Verdict.DRIFT:
                await applier.change(record.moved_to(CounterState.STALE, self._now(), found.reason, quarantined=True))
            case Verdict.EQUAL if found.scope is None:
                if record.drifted:
                    _log.warning("counter %s is right again", record.name)
                    await applier.change(record.moved_to(CounterState.LIVE, self._now()))
            case _:
                return
        if found.scope is None:
            # After the state: a reader must not see a fresh verification beside a state that it has ended.
            await self._verifications.note(replace(found, since=self._consumer.records[record.name].since))

    async def _subtract(self, record: CounterRecord | None, drifts: tuple[KeyDrift, ...], by: str) -> None:
        """Subtract the drift and write the journal, in one step of Redis. Runs between two steps."""
        applier = self._applier()
        if record is None or self._consumer.records.get(record.name) != record:
            raise SupersededError("the counter changed its state before it could be repaired")
        groups: dict[str, dict[str, int]] = {}
        for key in drifts:
            groups.setdefault(key.scope, {})[key.bucket] = -key.difference
        lineage = applier.lineage
        field = repair_field(record.name)
        moves = [
            # Standing still at the watermark: a Redis that lost its last writes is not the one that was compared.
            Move("watermark", lineage.watermark.lsn.version, lineage.watermark.lsn.version),
            Move("partial", "", ""),
            Move(field, await self._tallies.mark(field), secrets.token_hex(8)),
        ]
        entry = orjson.dumps({"counter": record.name, "by": by, "host": socket.gethostname(), "at": self._now()})
        backoff = Backoff(0.05, 2.0)
        while True:
            try:
                outcome = await self._tallies.apply(
                    lineage.epoch.identity,
                    moves,
                    [TallyGroup(record.name, scope, deltas) for scope, deltas in groups.items()],
                    repair=entry.decode(),
                )
                break
            except UnreachableError as error:
                _log.warning("%s; trying again", error)
                await backoff.wait()
        if not isinstance(outcome, Applied):
            raise SupersededError(f"the repair of {record.name} was not done: {outcome}")

    async def _rebuild(self, record: CounterRecord | None) -> None:
        if record is not None:
            await self._applier().change(record.moved_to(CounterState.STALE, self._now(), record.reason))

    def _applier(self) -> Applier:
        session = self._consumer.session
        if session is None:
            raise SupersededError("the session ended")
        return session.applier


def described(found: Verification) -> str:
    """Return what is wrong, in one line."""
    if not found.drifts:
        return found.reason
    named = ", ".join(
        f"scope {key.scope!r} bucket {key.bucket!r} is {key.tally} instead of {key.truth}"
        for key in found.drifts[:_NAMED]
    )
    more = f" and {found.drifted - _NAMED} more" if found.drifted > _NAMED else ""
    return f"drift at {found.lsn}: {named}{more}"
