"""Counts tables into tallies while writers keep writing: a seed is the repair of an empty tally.

A counter that awaits its seed takes no part at first. Then one snapshot S of its table is taken at some LSN L, and at
the first moment between two steps at or after L its hidden tallies begin, with exactly those applied transactions
that S does not see. From there on the stream adds to them, while what S sees is counted by the database and added chunk
by chunk; additions commute. When both are in, the hidden tallies are put where readers look. Nothing pauses.

Each chunk is journaled in the same script call that adds it, so that a lost reply adds nothing twice. After a crash or
a failure the seed starts again from nothing. Whatever deletes, publishes or ends a seed compares the journal's mark: a
process that was frozen and wakes beside its successor changes nothing.
"""

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from cdc_counter import failpoints
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.lsn import ZERO
from cdc_counter.core.outcome import Applied, Conflict, Move, OtherEpoch, TallyGroup, Unfit, seed_field
from cdc_counter.core.reading import CounterState
from cdc_counter.core.recent import add_up
from cdc_counter.errors import CdcCounterError, UnreachableError
from cdc_counter.failpoints import Failpoint
from cdc_counter.runtime.applier import Applier, SupersededError
from cdc_counter.runtime.backoff import Backoff
from cdc_counter.runtime.consumer import Consumer
from cdc_counter.runtime.edges import Observer, Recount, Recounter, Tallies
from cdc_counter.runtime.lineage import Lineage

_log = logging.getLogger(__name__)

_CHUNK: Final = 400
"""Keys added in one script call: 1 ms of Redis in one scope, 5 ms when each is in a scope of its own. Other counters'
deltas wait for as long."""

SeedProgress = Callable[[str, str, int], None]
"""Called with counter, what is being done, and how many keys are done."""


class Seeder:
    """Seeds one counter at a time through a running consumer."""

    def __init__(
        self,
        consumer: Consumer,
        recounter: Recounter,
        observer: Observer,
        tallies: Tallies,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer = consumer
        self._recounter = recounter
        self._observer = observer
        self._tallies = tallies
        self._now = now

    async def seed(self, record: CounterRecord, on_progress: SeedProgress) -> None:
        """Seed a counter that awaits it; afterwards it is live. Raises a retryable error when it has to start again."""
        name = record.name
        lineage = await self._consumer.between_steps(ZERO, lambda: self._take_no_part(record))
        journal = _Journal(self._tallies, name, await self._tallies.mark(seed_field(name)))
        # Claimed before anything is deleted: whoever began this seed before, and wakes up, does no more.
        await journal.add(lineage.epoch.identity, [])
        await self._tallies.discard_hidden(lineage.epoch.identity, name, journal.mark)
        failpoints.reach(Failpoint.SEED_CLEARED)
        on_progress(name, "taking a snapshot", 0)
        await self._consumer.see_a_snapshot()
        # Held from before the snapshot: what is let go by a newer one would be missing from the comparison.
        with ExitStack() as held:
            held.enter_context(lineage.holding())
            async with self._recounter.open(name) as recount:
                if recount.counter_id != record.id:
                    raise SupersededError(f"counter {name} was altered, and is not known yet as what it is now")
                failpoints.reach(Failpoint.SEED_SNAPSHOT)
                # Flushes the WAL up to the snapshot's position, so that a quiet database reaches it, too.
                await self._observer.heartbeat()
                await self._consumer.between_steps(
                    recount.lsn, lambda: self._activate(record, recount, journal, lineage)
                )
                held.close()
                on_progress(name, f"counting about {recount.estimated_rows:,} rows", 0)
                keys = 0
                async for rows in recount.truth(name, _CHUNK):
                    await journal.add(lineage.epoch.identity, _grouped(name, rows))
                    keys += len(rows)
                    on_progress(name, "adding keys", keys)
                    _still_counts(record, lineage)
        await self._consumer.between_steps(ZERO, lambda: self._publish(record, lineage, journal.mark, on_progress))
        _log.info("counter %s is live: %d keys", name, keys)

    async def _take_no_part(self, record: CounterRecord) -> Lineage:
        """Let no delta reach the hidden tallies until they begin again. Runs between two steps."""
        lineage = self._applier().lineage
        lineage.activated.discard(record.id)
        return lineage

    async def _activate(self, record: CounterRecord, recount: Recount, journal: "_Journal", lineage: Lineage) -> None:
        """Begin the hidden tallies with what was applied and the snapshot does not see. Runs between two steps."""
        if self._applier().lineage is not lineage:
            raise SupersededError(f"the seed of {record.name} was overtaken; it starts again")
        unseen = lineage.unseen(recount.snapshot, record.id)
        deltas = add_up(unseen, record.id)
        groups = [TallyGroup(record.name, scope, sums, hidden=True) for (_, scope), sums in deltas.items()]
        await journal.add(lineage.epoch.identity, groups)
        lineage.activated.add(record.id)

    async def _publish(self, record: CounterRecord, lineage: Lineage, mark: str, on_progress: SeedProgress) -> None:
        """Put the hidden tallies where readers look and set the counter live. Runs between two steps."""
        applier = self._applier()
        if applier.lineage is not lineage:
            raise SupersededError(f"the seed of {record.name} was overtaken; it starts again")
        _still_counts(record, lineage)
        await self._tallies.delete_gone(lineage.epoch.identity, record.name, mark)
        failpoints.reach(Failpoint.OLD_SCOPES_DELETED)
        async for done in self._tallies.publish(lineage.epoch.identity, record.name, mark):
            failpoints.reach(Failpoint.SEED_PUBLISHED)
            on_progress(record.name, "publishing scopes", done)
        current = self._consumer.records.get(record.name)
        if current is None or current.id != record.id:
            raise SupersededError(f"{record.name} was altered or removed while it was seeded")
        await applier.change(current.moved_to(CounterState.LIVE, self._now()), seed=mark)
        lineage.activated.discard(record.id)

    def _applier(self) -> Applier:
        session = self._consumer.session
        if session is None:
            raise SupersededError("the session ended")
        return session.applier


class _Journal:
    """Adds chunks exactly once: each moves a mark from n to n+1 in the call that adds it."""

    def __init__(self, tallies: Tallies, counter: str, stored: str) -> None:
        self._tallies = tallies
        self._field = seed_field(counter)
        self._mark = stored
        self._attempt = secrets.token_hex(4)
        self._number = 0

    @property
    def mark(self) -> str:
        """What stands in the journal as long as nobody else has taken the seed over."""
        return self._mark

    async def add(self, epoch: str, groups: list[TallyGroup]) -> None:
        """Add one chunk; returns when Redis holds it."""
        mark = f"{self._attempt}:{self._number}"
        move = Move(self._field, self._mark, mark)
        backoff = Backoff(0.05, 2.0)
        while True:
            try:
                outcome = await self._tallies.apply(epoch, [move], groups)
                failpoints.reach(Failpoint.SEED_ADDED)
                break
            except UnreachableError as error:
                _log.warning("%s; trying again", error)
                await backoff.wait()
        match outcome:
            case Applied():
                self._mark, self._number = mark, self._number + 1
            case OtherEpoch() | Conflict():
                raise SupersededError(f"somebody else began a seed or an epoch: {outcome}")
            case Unfit():
                raise CdcCounterError(f"the seed could not be added: {outcome}")


def _grouped(counter: str, rows: list[tuple[str, str, int]]) -> list[TallyGroup]:
    """Collect rows of (scope, bucket, value) into one group per scope."""
    scopes: dict[str, dict[str, int]] = {}
    for scope, bucket, value in rows:
        scopes.setdefault(scope, {})[bucket] = value
    return [TallyGroup(counter, scope, values, hidden=True) for scope, values in scopes.items()]


def _still_counts(record: CounterRecord, lineage: Lineage) -> None:
    """Raise unless every delta since the snapshot went to the hidden tallies."""
    if record.id not in lineage.activated:
        raise SupersededError(f"the seed of {record.name} was overtaken; it starts again")
