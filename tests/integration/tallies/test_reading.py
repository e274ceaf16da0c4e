"""What readers get: values that are true for their version, and a feed without silent gaps."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied, Conflict, Move, TallyGroup, seed_field
from cdc_counter.core.reading import Change, CounterState, FeedEntry, Gap, Reset
from cdc_counter.core.status import Phase, StreamStatus
from cdc_counter.embedded import RedisServer
from cdc_counter.errors import BusyError, CdcCounterError, UnreachableError
from cdc_counter.tallies.connection import command, connect
from cdc_counter.tallies.keys import Keys
from cdc_counter.tallies.reader import TallyReader
from cdc_counter.tallies.store import TallyStore
from tests.integration.tallies.conftest import COUNTER, PREFIX, RECORD, begin, everything, group, moves, tally

KEYS = Keys(PREFIX)
_DEADLINE = 90.0


async def following(reader: TallyReader) -> AsyncIterator[FeedEntry]:
    """Give the feed's entries one by one; the first is where it begins."""
    async for entries in reader.follow():
        for entry in entries:
            yield entry


async def until(feed: AsyncIterator[FeedEntry], kind: type[FeedEntry]) -> FeedEntry:
    async with asyncio.timeout(_DEADLINE):
        while not isinstance(entry := await anext(feed), kind):
            pass
    return entry


async def test_entries_are_consecutive_and_hold_absolute_values(reader: TallyReader, store: TallyStore) -> None:
    """Numbers count changed values, so that what the feed keeps is bounded by values."""
    feed = following(reader)
    first = await until(feed, Gap)
    await store.apply("e1", moves(0, 1), [group({"7": 2}), group({"a": 2**53 + 1, "\x00é": -1}, "x:y ")])
    await store.apply("e1", moves(1, 2), [group({"7": -2})])
    await store.set_counter("e1", RECORD)
    entries = [await until(feed, Change | Reset) for _ in range(4)]  # type: ignore[arg-type]
    assert entries == [
        Change(first.sequence + 1, COUNTER, "42", {"7": 2}, Lsn(1)),
        Change(first.sequence + 3, COUNTER, "x:y ", {"a": 2**53 + 1, "\x00é": -1}, Lsn(1)),
        Change(first.sequence + 4, COUNTER, "42", {"7": 0}, Lsn(2)),
        Reset(first.sequence + 5, COUNTER),
    ]


async def test_the_version_of_a_change_is_the_watermark_after_it(reader: TallyReader, store: TallyStore) -> None:
    """A repair is written beside the stream: its version is the one that stands."""
    feed = following(reader)
    await until(feed, Gap)
    await store.apply("e1", moves(0, 9), [])
    await store.apply("e1", [], [group({"7": 1})])
    entry = await until(feed, Change)
    assert isinstance(entry, Change)
    assert entry.version == Lsn(9)


async def test_hidden_tallies_do_not_show_in_the_feed(reader: TallyReader, store: TallyStore) -> None:
    feed = following(reader)
    await until(feed, Gap)
    await store.apply("e1", moves(0, 1), [group({"7": 1}, hidden=True)])
    await store.apply("e1", moves(1, 2), [group({"8": 1})])
    entry = await until(feed, Change)
    assert isinstance(entry, Change)
    assert entry.values == {"8": 1}


async def test_a_reader_that_is_too_slow_for_the_feed_is_told_of_the_gap(
    client: Redis, store: TallyStore, reader: TallyReader
) -> None:
    feed = following(reader)
    await until(feed, Gap)
    for number in range(3):
        await store.apply("e1", moves(number, number + 1), [group({"7": 1})])
    await command(client, "XTRIM", KEYS.feed, "MAXLEN", 1)
    assert await until(feed, Gap)
    entry = await until(feed, Change)
    assert isinstance(entry, Change)
    assert entry.values == {"7": 3}


async def test_tallies_lost_and_begun_anew_show_as_a_gap(client: Redis, store: TallyStore, reader: TallyReader) -> None:
    feed = following(reader)
    await until(feed, Gap)
    await store.apply("e1", moves(0, 1), [group({"7": 1})])
    await until(feed, Change)
    await command(client, "FLUSHALL")
    await begin(store, "", "e2", now=2.0)
    assert await until(feed, Gap)


async def test_a_feed_that_starts_over_below_what_was_seen_shows_as_a_gap(
    client: Redis, store: TallyStore, reader: TallyReader
) -> None:
    feed = following(reader)
    await command(client, "HSET", KEYS.meta, "sequence", 10**12)
    await until(feed, Gap)
    await command(client, "FLUSHALL")
    await begin(store, "", "e2", now=2.0)
    assert await until(feed, Gap)


async def test_following_goes_on_after_a_restart_and_says_that_something_may_be_missing(
    server: RedisServer, store: TallyStore, reader: TallyReader
) -> None:
    feed = following(reader)
    await until(feed, Gap)
    await store.apply("e1", moves(0, 1), [group({"7": 1})])
    await until(feed, Change)
    waiting = asyncio.create_task(until(feed, Gap))
    await asyncio.to_thread(server.restart)
    assert await waiting
    await store.apply("e1", moves(1, 2), [group({"7": 1})])
    entry = await until(feed, Change)
    assert isinstance(entry, Change)
    assert entry.values == {"7": 2}


async def test_values_are_true_for_their_version_while_others_write(reader: TallyReader, store: TallyStore) -> None:
    """Each step moves one from bucket to bucket: the sum is constant, and one bucket is the version."""
    await store.apply("e1", moves(0, 1), [group({"left": 999, "right": 1})])
    last = 300

    async def write() -> None:
        for number in range(1, last):
            assert await store.apply("e1", moves(number, number + 1), [group({"left": -1, "right": 1})]) == Applied()

    writing = asyncio.create_task(write())
    versions = set()
    while True:
        reading = await reader.read(COUNTER, "42")
        assert reading.values == {"left": 1000 - reading.version, "right": reading.version}
        versions.add(reading.version)
        if reading.version == last:
            break
    await writing
    assert len(versions) > 2


async def test_a_reading_tells_which_entries_it_includes(reader: TallyReader, store: TallyStore) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 1}), group({"7": 1}, "43")])
    reading = await reader.read(COUNTER, "42")
    assert (reading.sequence, reading.epoch, reading.state) == (await reader.sequence(), "e1", CounterState.LIVE)


async def test_missing_tallies_are_an_error_and_not_an_empty_answer(client: Redis, reader: TallyReader) -> None:
    await command(client, "FLUSHALL")
    with pytest.raises(UnreachableError, match="no tallies under prefix 't'"):
        await reader.read(COUNTER, "42")


async def test_a_field_that_is_no_number_is_an_error_that_names_the_key(
    client: Redis, store: TallyStore, reader: TallyReader
) -> None:
    await command(client, "HSET", KEYS.tally(COUNTER, "42"), "7", "seven")
    with pytest.raises(CdcCounterError, match="t:tally:open_by_channel:42"):
        await reader.read(COUNTER, "42")


# -- seeding ----------------------------------------------------------------------------------------------------------


def hidden(scope: str, value: int) -> TallyGroup:
    return group({"7": value}, scope, hidden=True)


async def publish(store: TallyStore) -> int:
    await store.delete_gone("e1", COUNTER, "")
    return max([done async for done in store.publish("e1", COUNTER, "")], default=0)


async def test_while_a_counter_is_first_seeded_no_values_show(reader: TallyReader, store: TallyStore) -> None:
    await store.set_counter("e1", RECORD.moved_to(CounterState.SEEDING, 1.0))
    await store.apply("e1", moves(0, 1), [hidden("42", 5)])
    reading = await reader.read(COUNTER, "42")
    assert (reading.values, reading.state) == ({}, CounterState.SEEDING)


async def test_while_a_counter_is_rebuilt_its_last_values_show(reader: TallyReader, store: TallyStore) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 3})])
    await store.set_counter("e1", RECORD.moved_to(CounterState.REBUILDING, 1.0))
    await store.apply("e1", moves(1, 2), [hidden("42", 5)])
    reading = await reader.read(COUNTER, "42")
    assert (reading.values, reading.state) == ({"7": 3}, CounterState.REBUILDING)


async def test_publishing_replaces_old_values_and_removes_scopes_that_are_gone(
    client: Redis, store: TallyStore
) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 1, "8": 1}, "kept"), group({"7": 1}, "gone"), hidden("kept", 5)])
    await store.apply("e1", moves(1, 2), [hidden("new", 6), hidden("sp ace*[x]", 7)])
    assert await publish(store) == 3
    assert await tally(client, "kept") == {"7": 5}
    assert await tally(client, "new") == {"7": 6}
    assert await tally(client, "sp ace*[x]") == {"7": 7}
    assert await tally(client, "gone") == {}
    assert not [key for key in await everything(client) if b":seeding:" in key]


async def test_publishing_goes_on_where_a_crash_stopped_it(client: Redis, store: TallyStore) -> None:
    scopes = [str(number) for number in range(2500)]
    await store.apply("e1", moves(0, 1), [hidden(scope, 5) for scope in scopes] + [group({"7": 1}, "gone")])
    await store.delete_gone("e1", COUNTER, "")
    async for done in store.publish("e1", COUNTER, ""):
        assert done < len(scopes)
        break
    assert [done async for done in store.publish("e1", COUNTER, "")][-1] > 0
    assert [done async for done in store.publish("e1", COUNTER, "")] == []
    assert [await tally(client, scope) for scope in ("0", "2499", "gone")] == [{"7": 5}, {"7": 5}, {}]
    assert sum(b":tally:" in key for key in await everything(client)) == len(scopes)


async def test_who_was_overtaken_in_a_seed_deletes_publishes_and_ends_nothing(client: Redis, store: TallyStore) -> None:
    """A process that was frozen wakes beside the one that took its place."""
    await store.set_counter("e1", RECORD.moved_to(CounterState.REBUILDING, 1.0))
    await store.apply("e1", [Move(seed_field(COUNTER), "", "old:0")], [group({"7": 1}, "gone"), hidden("42", 5)])
    await store.apply("e1", [Move(seed_field(COUNTER), "old:0", "new:0")], [])
    before = await everything(client)
    with pytest.raises(BusyError, match="taken over"):
        await store.discard_hidden("e1", COUNTER, "old:0")
    with pytest.raises(BusyError, match="taken over"):
        await store.delete_gone("e1", COUNTER, "old:0")
    with pytest.raises(BusyError, match="taken over"):
        await anext(store.publish("e1", COUNTER, "old:0"))
    assert await store.set_counter("e1", RECORD, seed="old:0") == Conflict(seed_field(COUNTER), "new:0")
    assert await everything(client) == before
    assert [done async for done in store.publish("e1", COUNTER, "new:0")] == [1]
    assert await store.set_counter("e1", RECORD, seed="new:0") == Applied()


async def test_tallies_of_a_counter_whose_name_begins_alike_are_left_alone(client: Redis, store: TallyStore) -> None:
    other = TallyGroup(f"{COUNTER}_2", "42", {"7": 1})
    await store.apply("e1", moves(0, 1), [other, group({"7": 1}), hidden("42", 1)])
    await store.remove_counter("e1", RECORD)
    assert await store.removed() == {COUNTER: str(RECORD.id)}
    assert await store.clear_removed("e1", COUNTER, str(RECORD.id))
    assert await store.removed() == {}
    assert [key for key in await everything(client) if b":tally:" in key or b":seeding:" in key] == [
        KEYS.tally(other.counter, "42").encode()
    ]


# -- epochs -----------------------------------------------------------------------------------------------------------


async def test_a_new_epoch_keeps_the_values_and_forgets_notes_and_journals(client: Redis, store: TallyStore) -> None:
    await store.apply("e1", moves(0, 5), [group({"7": 3})], note="10")
    await command(client, "HSET", KEYS.meta, "seed:x", "a:1")
    await begin(store, "e1", "e2")
    stored = await store.load()
    assert stored is not None
    assert (stored.epoch.identity, stored.watermark.lsn) == ("e2", Lsn(0))
    assert await tally(client) == {"7": 3}
    assert await store.recent() == []
    assert await store.mark(seed_field("x")) == ""
    assert await store.counters() == {COUNTER: RECORD}


async def test_everything_of_a_prefix_is_deleted_and_nothing_else(client: Redis, store: TallyStore) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 3}, str(n)) for n in range(1500)], note="1")
    await command(client, "SET", "other", "x")
    await command(client, "SET", "tt:meta", "x")
    assert await store.delete_everything() >= 1503
    assert set(await everything(client)) == {b"other", b"tt:meta"}


@pytest.mark.parametrize("keys", [5_000, 10_000, 15_000])
async def test_how_long_one_call_keeps_redis_busy(client: Redis, store: TallyStore, keys: int) -> None:
    """Measured, not judged: see the run's output with -rP."""
    scopes = [group({"7": 1}, str(number)) for number in range(keys)]
    buckets = [group({str(number): 1 for number in range(keys)})]
    for number, (shape, groups) in enumerate(
        [("new scopes", scopes), ("scopes", scopes), ("new buckets", buckets), ("buckets", buckets)]
    ):
        await command(client, "SLOWLOG", "RESET")
        await store.apply("e1", moves(number, number + 1), groups)
        log = await command(client, "SLOWLOG", "GET", 100)
        slowest = max(entry["duration"] if isinstance(entry, dict) else entry[2] for entry in log)
        print(f"{keys} keys in {shape}: {slowest / 1000:.1f} ms")  # noqa: T201  # the measurement is the point


async def test_no_counter_is_gone_while_redis_is_emptied_and_begun_again(
    reader: TallyReader, store: TallyStore, server: RedisServer
) -> None:
    losing = asyncio.create_task(lose_and_begin(server, store))
    found = away = 0
    while not losing.done():
        try:
            assert await reader.counter(COUNTER) is not None
            found += 1
        except UnreachableError:
            away += 1
    await losing
    assert found
    assert away


async def lose_and_begin(server: RedisServer, store: TallyStore) -> None:
    async with connect(server.url) as client:
        for _ in range(300):
            await command(client, "FLUSHALL")
            await begin(store)


def report_at(seconds: float) -> StreamStatus:
    """Return a report that was made at these unix seconds."""
    return StreamStatus(
        pid=1, host="h", started_at=0.0, reported_at=seconds, phase=Phase.STREAMING, detail="", slot="s", epoch="e",
        received="0/3", applied="0/2", confirmed="0/1", lag=0.0, backlog=0, retained_wal=None, wal_status=None,
        transactions=1, deltas=1, cycle_seconds=0.0, progress_age=0.0,
    )  # fmt: skip


async def test_how_old_a_report_is_does_not_depend_on_the_clock_of_its_writer(
    reader: TallyReader, store: TallyStore
) -> None:
    for wrong_by in (-86_400, 86_400):
        await store.report(report_at(time.time() + wrong_by))
        report = await reader.status()
        assert report is not None
        assert abs(time.time() - report.reported_at) < 3_600
