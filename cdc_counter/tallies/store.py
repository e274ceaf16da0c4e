"""The writing side: tallies, watermark, states and the consumer's report.

Every write but the report and the end of everything is a script that compares the epoch first, and in a seed its
journal, so that a process that was asleep, or that talks to the wrong Redis, changes nothing.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from cdc_counter.core.changes import Beginning
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.eviction import Evictions
from cdc_counter.core.lifecycle import Epoch, Loss, LostError, Stored
from cdc_counter.core.outcome import Applied, Conflict, Move, OtherEpoch, Outcome, TallyGroup, Unfit, seed_field
from cdc_counter.core.status import StreamStatus
from cdc_counter.core.watermark import Watermark
from cdc_counter.errors import BusyError, CdcCounterError, ReseedNeededError
from cdc_counter.tallies.connection import command, translated_errors
from cdc_counter.tallies.keys import REPORT_TTL, Keys
from cdc_counter.tallies.line import Line
from cdc_counter.tallies.scanning import matching_keys
from cdc_counter.tallies.scripts import Script

_CHUNK: Final = 1000
"""Keys deleted per call: some milliseconds where they are large."""

_PUBLISH_CHUNK: Final = 1000
"""Renames per script call: about 2 ms."""

_GONE: Final = "gone:"
"""Opens the meta fields that set_counter.lua leaves for counters whose tallies are still to be cleared."""


@dataclass(frozen=True, slots=True)
class _Scripts:
    apply: Script
    begin_epoch: Script
    set_counter: Script
    publish: Script
    discard: Script
    clear: Script


class TallyStore:
    """Writes one prefix. `feed_length` is how many changed values the feed keeps, about."""

    def __init__(self, client: Redis, prefix: str, feed_length: int) -> None:
        self._client = client
        self._line = Line(client)
        self._keys = Keys(prefix)
        self._feed_length = str(feed_length)
        self._scripts = _Scripts(*(Script.load(field.name) for field in fields(_Scripts)))

    async def load(self) -> Stored | None:
        """Return the stored epoch and watermark; None without tallies. Raises LostError on foreign data."""
        with _damage_named(f"reading {self._keys.meta}"):
            raw: dict[bytes, bytes] = await command(self._client, "HGETALL", self._keys.meta)
        if not raw:
            return None
        try:
            meta = {name.decode(): value.decode() for name, value in raw.items()}
            epoch = Epoch(
                meta["epoch"],
                meta["system_identifier"],
                int(meta["database_oid"]),
                int(meta["timeline"]),
                meta["slot"],
                meta.get("publication", ""),
            )
            noted = meta.get("evictions")
            return Stored(
                epoch,
                Watermark.from_stored(meta["watermark"], meta.get("partial", "")),
                Evictions.parse(noted) if noted else None,
            )
        except (KeyError, ValueError, CdcCounterError) as error:
            reason = f"redis key {self._keys.meta} is damaged: {error!r}"
            raise LostError(Loss.TALLIES_DAMAGED, reason) from error

    async def identity(self) -> str:
        """Return the identity of the stored epoch, also of a damaged one; '' for none."""
        try:
            with _damage_named("reading the epoch"):
                raw: bytes | None = await command(self._client, "HGET", self._keys.meta, "epoch")
        except LostError:
            return ""
        return (raw or b"").decode(errors="replace")

    async def evictions(self) -> Evictions:
        """Return what the server says that it evicted."""
        with translated_errors("looking for evictions"):
            info: dict[str, Any] = await command(self._client, "INFO")
        return Evictions(
            str(info.get("run_id", "-")),
            int(info.get("evicted_keys", 0)),
            str(info.get("maxmemory_policy", "noeviction")),
        )

    async def counters(self) -> dict[str, CounterRecord]:
        """Return every counter's record by name; raises LostError on foreign data."""
        with _damage_named("reading the counters"):
            raw: dict[bytes, bytes] = await command(self._client, "HGETALL", self._keys.counters)
        try:
            return {name.decode(): CounterRecord.from_json(orjson.loads(value)) for name, value in raw.items()}
        except (KeyError, TypeError, ValueError) as error:
            reason = f"redis key {self._keys.counters} is damaged: {error!r}"
            raise LostError(Loss.TALLIES_DAMAGED, reason) from error

    async def recent(self) -> list[str]:
        """Return the elements noted with `apply` and not yet trimmed, oldest first."""
        with _damage_named("reading recent transactions"):
            raw: list[bytes] = await command(self._client, "LRANGE", self._keys.recent, 0, -1)
        return [element.decode() for element in raw]

    async def apply(
        self,
        epoch: str,
        moves: Sequence[Move],
        groups: Sequence[TallyGroup],
        *,
        version: str = "",
        note: str = "",
        surplus_notes: int = 0,
        repair: str = "",
    ) -> Outcome:
        """Add deltas and move meta fields in one step, or do nothing.

        `version` is what the feed says of the change ('' for the watermark after it); `note` is kept in the list of
        recent transactions, the oldest `surplus_notes` leave it; `repair` goes into the journal of repairs, beside the
        old and the new value of every bucket. A conflict that shows the very values to be set, all
        of them, is an earlier call whose reply was lost: it counts as applied. Raises UnreachableError when there was
        no answer: call again with the same arguments.
        """
        keys = [self._keys.meta, self._keys.feed, self._keys.recent, self._keys.repairs]
        arguments: list[str | bytes] = [epoch, str(len(moves))]
        for move in moves:
            arguments += (move.field, move.expected, move.new)
        packed = []
        for group in groups:
            name = self._keys.hidden if group.hidden else self._keys.tally
            keys.append(name(group.counter, group.scope))
            counter = "" if group.hidden else group.counter
            packed.append((counter, group.scope, list(group.deltas), list(map(str, group.deltas.values()))))
        arguments += (self._feed_length, version, note, str(surplus_notes), repair, orjson.dumps(packed))
        with _damage_named("applying deltas"):
            reply = await self._scripts.apply.call(self._line, keys, arguments)
        match reply:
            case ["applied"]:
                return Applied()
            case ["conflict", *stored]:
                return _conflict(moves, stored)
            case ["unfit", key, bucket, reason]:
                group_of = dict(zip(keys[4:], groups, strict=True))
                return Unfit(key, bucket, reason, group_of.get(key))
            case _:
                return _other_epoch(reply)

    async def begin_epoch(
        self, replacing: str, stored: Stored, records: Iterable[CounterRecord], now: float, *, note: str = ""
    ) -> None:
        """Start a new lifetime of tallies in place of the epoch `replacing` ('' for none).

        `note` begins the list of recent transactions.
        Raises ReseedNeededError when another epoch is stored: somebody else began one.
        """
        meta: dict[str, str] = {
            "epoch": stored.epoch.identity,
            "system_identifier": stored.epoch.system_identifier,
            "database_oid": str(stored.epoch.database_oid),
            "timeline": str(stored.epoch.timeline),
            "slot": stored.epoch.slot,
            "publication": stored.epoch.publication,
            "watermark": stored.watermark.lsn.version,
            "partial": "",
            "evictions": stored.evictions.text if stored.evictions else "",
        }
        # The feed's numbers continue from the clock, so that a reader of lost tallies always sees a gap.
        arguments: list[str | bytes] = [replacing, self._feed_length, str(int(now * 1000)), note, str(len(meta))]
        for pair in meta.items():
            arguments += pair
        for record in records:
            arguments += (record.name, orjson.dumps(record.to_json()))
        keys = [self._keys.meta, self._keys.counters, self._keys.feed, self._keys.recent]
        with translated_errors("beginning an epoch"):
            reply = await self._scripts.begin_epoch.call(self._client, keys, arguments)
        # A lost reply: the epoch that is stored is the one to be begun.
        if reply not in (["applied"], ["epoch", stored.epoch.identity]):
            raise ReseedNeededError(
                f"redis holds epoch {reply[-1]!r} instead of {replacing!r}: somebody else began one"
            )

    async def set_counter(self, epoch: str, record: CounterRecord, *, seed: str = "") -> Outcome:
        """Write the record of a counter that is stored with the same id, and tell readers to look again.

        `seed` not empty: only if this is the mark in its seed's journal.
        """
        return await self._write_counter(epoch, record.name, orjson.dumps(record.to_json()), record.id, seed)

    async def begin_counter(self, epoch: str, beginning: Beginning) -> Outcome:
        """Write the record of a new counter in place of the one it replaces, and tell readers to look again."""
        record = beginning.record
        return await self._write_counter(epoch, record.name, orjson.dumps(record.to_json()), beginning.replaced)

    async def remove_counter(self, epoch: str, record: CounterRecord) -> Outcome:
        """Remove a counter's record and tell readers; its tallies are left to be cleared by whoever adds to them."""
        return await self._write_counter(epoch, record.name, b"", record.id)

    async def removed(self) -> dict[str, str]:
        """Return the counters whose tallies are still to be cleared, with the ids they had."""
        with translated_errors("reading what was removed"):
            raw: dict[bytes, bytes] = await command(self._client, "HGETALL", self._keys.meta)
        fields = {field.decode(): value.decode() for field, value in raw.items()}
        return {field.removeprefix(_GONE): fields[field] for field in fields if field.startswith(_GONE)}

    async def clear_removed(self, epoch: str, name: str, removed_id: str) -> bool:
        """Delete all tallies of a removed counter; False when it is back, or another epoch began meanwhile.

        Deltas must not be applied to it any more: whoever applies them has to know that it is gone.
        """
        for hidden in (False, True):
            chunk: list[str] = []
            async for key in matching_keys(self._client, self._keys.all_tallies(name, hidden=hidden)):
                chunk.append(key.decode())
                if len(chunk) == _CHUNK:
                    if not await self._clear(epoch, name, removed_id, chunk):
                        return False
                    chunk = []
            if chunk and not await self._clear(epoch, name, removed_id, chunk):
                return False
        return await self._clear(epoch, name, removed_id, [])

    async def _clear(self, epoch: str, name: str, removed_id: str, keys: list[str]) -> bool:
        with translated_errors("clearing a removed counter"):
            single = [self._keys.meta, self._keys.verified]
            reply = await self._scripts.clear.call(self._client, [*single, *keys], [epoch, name, removed_id])
        return reply == ["applied"]

    async def mark(self, field: str) -> str:
        """Return what stands in a meta field that a compare-and-set moves; '' for nothing."""
        with translated_errors(f"reading {field}"):
            raw: bytes | None = await command(self._client, "HGET", self._keys.meta, field)
        return (raw or b"").decode()

    async def discard_hidden(self, epoch: str, counter: str, mark: str) -> None:
        """Delete what an unfinished seed left; `mark` is what stands in the journal of the one that begins."""
        hidden = [self._keys.hidden(counter, scope) for scope in await self._scopes(counter, hidden=True)]
        await self._discard(hidden, epoch, counter, mark)

    async def publish(self, epoch: str, counter: str, mark: str) -> AsyncIterator[int]:
        """Put the seeded tallies in place of the old ones; yields the number of scopes done so far.

        Repeatable: after a crash it is called again from the start. Deltas must not be applied to this counter
        meanwhile. `mark` is what stands in the seed's journal. Raises ReseedNeededError when the epoch is another one,
        BusyError when the seed was taken over.
        """
        scopes = await self._scopes(counter, hidden=True)
        done = 0
        for first in range(0, len(scopes), _PUBLISH_CHUNK):
            keys = [self._keys.meta]
            for scope in scopes[first : first + _PUBLISH_CHUNK]:
                keys += (self._keys.hidden(counter, scope), self._keys.tally(counter, scope))
            await self._step_of_seed(self._scripts.publish, "publishing seeded tallies", keys, epoch, counter, mark)
            done += len(scopes[first : first + _PUBLISH_CHUNK])
            yield done

    async def delete_gone(self, epoch: str, counter: str, mark: str) -> None:
        """Delete old tallies of scopes that the seed has none for: to be called once before `publish`, as that is."""
        kept = set(await self._scopes(counter, hidden=True))
        gone = [scope for scope in await self._scopes(counter, hidden=False) if scope not in kept]
        await self._discard([self._keys.tally(counter, scope) for scope in gone], epoch, counter, mark)

    async def _discard(self, tallies: Sequence[str], epoch: str, counter: str, mark: str) -> None:
        for first in range(0, len(tallies), _CHUNK):
            keys = [self._keys.meta, *tallies[first : first + _CHUNK]]
            await self._step_of_seed(self._scripts.discard, "deleting tallies", keys, epoch, counter, mark)

    async def _step_of_seed(
        self, script: Script, what: str, keys: list[str], epoch: str, counter: str, mark: str
    ) -> None:
        with translated_errors(what):
            reply = await script.call(self._client, keys, [epoch, seed_field(counter), mark])
        match reply:
            case ["applied"]:
                return
            case ["seed", stored]:
                raise BusyError(f"the seed of {counter} was taken over: its journal says {stored!r}")
            case _:
                raise ReseedNeededError(f"redis holds epoch {reply[-1]!r} instead of {epoch!r}")

    async def report(self, status: StreamStatus) -> None:
        """Store the consumer's report of itself."""
        with translated_errors("reporting"):
            await self._client.set(self._keys.status, orjson.dumps(status.to_json()), ex=REPORT_TTL)

    async def last_report(self) -> StreamStatus | None:
        """Return what a consumer reported of itself last; None when there is nothing to be read."""
        with translated_errors("reading the consumer's report"):
            raw = await self._client.get(self._keys.status)
        try:
            return None if raw is None else StreamStatus.from_json(orjson.loads(raw))
        except (KeyError, TypeError, ValueError):
            return None

    async def delete_everything(self) -> int:
        """Delete every key of this prefix; returns how many there were."""
        # The watermark goes first: whatever is left after a crash is no reader's number.
        deleted = await self._unlink([key.encode() for key in self._keys.single()])
        for pattern in self._keys.every_tally():
            deleted += await self._delete(pattern)
        return deleted

    async def _write_counter(
        self, epoch: str, name: str, record: bytes, stored_id: int | None, seed: str = ""
    ) -> Outcome:
        keys = [self._keys.meta, self._keys.counters, self._keys.feed]
        expected = "" if stored_id is None else str(stored_id)
        with _damage_named(f"writing counter {name}"):
            reply = await self._scripts.set_counter.call(
                self._client, keys, [epoch, name, record, self._feed_length, expected, seed]
            )
        match reply:
            case ["applied"]:
                return Applied()
            case ["counter", stored]:
                return Conflict(f"counter {name}", stored)
            case ["seed", stored]:
                return Conflict(seed_field(name), stored)
            case ["unfit", key, field, reason]:
                return Unfit(key, field, reason, None)
            case _:
                return _other_epoch(reply)

    async def _scopes(self, counter: str, *, hidden: bool) -> list[str]:
        prefix = self._keys.hidden(counter, "") if hidden else self._keys.tally(counter, "")
        pattern = self._keys.all_tallies(counter, hidden=hidden)
        # What is not UTF-8 is nobody's scope.
        keys = [key.decode(errors="ignore") async for key in matching_keys(self._client, pattern) if _is_text(key)]
        return [key.removeprefix(prefix) for key in keys]

    async def _delete(self, pattern: str) -> int:
        chunk: list[bytes] = []
        deleted = 0
        async for key in matching_keys(self._client, pattern):
            chunk.append(key)
            if len(chunk) == _CHUNK:
                deleted += await self._unlink(chunk)
                chunk = []
        return deleted + (await self._unlink(chunk) if chunk else 0)

    async def _unlink(self, keys: Sequence[bytes]) -> int:
        with translated_errors("deleting tallies"):
            return int(await self._client.unlink(*keys))


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    """Turn redis errors into this project's; a key of ours that holds another type is damage."""
    try:
        with translated_errors(what):
            yield
    except CdcCounterError as error:
        if "WRONGTYPE" in str(error):
            raise LostError(Loss.TALLIES_DAMAGED, str(error)) from error
        raise


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _conflict(moves: Sequence[Move], stored: Sequence[str]) -> Outcome:
    pairs = list(zip(moves, stored, strict=True))
    if all(move.new == value for move, value in pairs):
        return Applied()
    return next(Conflict(move.field, value) for move, value in pairs if move.expected != value)


def _other_epoch(reply: Sequence[str]) -> OtherEpoch:
    match reply:
        case ["epoch", stored]:
            return OtherEpoch(stored)
        case _:
            raise CdcCounterError(f"unexpected script reply {reply!r}")
