"""One script call: all of it or nothing, exact to the last of 64 bits, once."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied, Conflict, OtherEpoch, TallyGroup, Unfit
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.tallies.connection import command
from cdc_counter.tallies.keys import Keys
from cdc_counter.tallies.store import TallyStore
from tests.integration.tallies.conftest import COUNTER, PREFIX, RECORD, everything, group, moves, tally

KEYS = Keys(PREFIX)
LOWEST, HIGHEST = -(2**63), 2**63 - 1


def around(*centres: int) -> st.SearchStrategy[int]:
    return st.sampled_from(centres).flatmap(lambda centre: st.integers(centre - 3, centre + 3))


NUMBERS = st.one_of(
    st.integers(-5, 5),
    around(2**53, -(2**53), 10**14, -(10**14), 10**15, -(10**15), 10**7, 10**18, -(10**18)),
    st.integers(13, 19).flatmap(lambda digits: st.integers(-(10**digits), 10**digits)),
    st.integers(LOWEST, HIGHEST),
)
STORED = st.one_of(NUMBERS, around(HIGHEST - 3, LOWEST + 3)).filter(lambda n: LOWEST <= n <= HIGHEST)
DELTAS = st.one_of(NUMBERS, st.integers(-(2**64), 2**64), around(2**64, -(2**64), 10**20, -(10**20), 10**30)).filter(
    bool
)


@given(st.lists(st.tuples(STORED, DELTAS), min_size=1, max_size=40))
@example(
    [
        (sign * (10**digits - 1), sign * delta)
        for digits in range(11, 17)
        for delta in (1, 10**digits - 1)
        for sign in (1, -1)
    ]
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_sums_are_exact_or_refused(client: Redis, store: TallyStore, pairs: list[tuple[int, int]]) -> None:
    key = KEYS.tally(COUNTER, "42")
    fits = {str(n): pair for n, pair in enumerate(pairs) if LOWEST <= sum(pair) <= HIGHEST}
    await command(client, "DEL", key)
    for bucket, (stored, _) in enumerate(pairs):
        await command(client, "HSET", key, bucket, stored)
    outcome = await store.apply("e1", [], [group({bucket: delta for bucket, (_, delta) in fits.items()})])
    assert outcome == Applied()
    after = await tally(client)
    assert {b: v for b, v in after.items() if b in fits} == {b: sum(pair) for b, pair in fits.items() if sum(pair)}
    for bucket, (stored, delta) in enumerate(pairs):
        if str(bucket) not in fits:
            outcome = await store.apply("e1", [], [group({str(bucket): delta})])
            assert isinstance(outcome, Unfit), (stored, delta)
            assert (outcome.bucket, outcome.reason) == (str(bucket), "it would leave the 64-bit range")
            assert after[str(bucket)] == stored


async def test_a_bucket_that_comes_to_zero_is_gone_and_with_the_last_the_scope(
    client: Redis, store: TallyStore
) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 2, "8": 1})])
    await store.apply("e1", moves(1, 2), [group({"7": -2})])
    assert await tally(client) == {"8": 1}
    await store.apply("e1", moves(2, 3), [group({"8": -1})])
    assert await command(client, "EXISTS", KEYS.tally(COUNTER, "42")) == 0


ODD = [
    "", " ", "a b", '"', "'", "\\", "\\N", "\n", "\r\n", ":", "{x}", "*", "[", "?", "🐘", "e\u0301",
    "\x00", "\x01", "\x7f", "/",
    "]] redis.call('flushall') --", "'); redis.call('flushall') --", '[null,"EUR"]', "__proto__", "x" * 5000,
]  # fmt: skip


async def test_keys_of_any_characters_are_kept_as_they_are(client: Redis, store: TallyStore) -> None:
    deltas = {bucket: number for number, bucket in enumerate(ODD, start=1)}
    assert await store.apply("e1", moves(0, 1), [group(deltas, scope) for scope in ODD]) == Applied()
    for scope in ODD:
        assert await tally(client, scope) == deltas
    assert await store.remove_counter("e1", RECORD) == Applied()
    assert await store.clear_removed("e1", COUNTER, str(RECORD.id))
    assert not [key for key in await everything(client) if b":tally:" in key]


BROKEN: dict[str, tuple[list[str | bytes], str, str]] = {
    "wrong type": (["SET", KEYS.tally(COUNTER, "bad"), "x"], "", "it is not a hash"),
    "a list": (["RPUSH", KEYS.tally(COUNTER, "bad"), "x"], "", "it is not a hash"),
    "no integer": (["HSET", KEYS.tally(COUNTER, "bad"), "7", "1.5"], "7", "it holds no integer"),
    "no number": (["HSET", KEYS.tally(COUNTER, "bad"), "7", b"\xff"], "7", "it holds no integer"),
    "empty": (["HSET", KEYS.tally(COUNTER, "bad"), "7", ""], "7", "it holds no integer"),
    "overflow": (["HSET", KEYS.tally(COUNTER, "bad"), "7", str(HIGHEST)], "7", "it would leave the 64-bit range"),
    "long": (["HSET", KEYS.tally(COUNTER, "bad"), "7", "1" * 40], "7", "it would leave the 64-bit range"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_one_value_that_can_not_take_its_delta_leaves_everything_as_it_was(
    client: Redis, store: TallyStore, case: str
) -> None:
    damage, bucket, reason = BROKEN[case]
    await store.apply("e1", moves(0, 1), [group({"7": 1})], note="10")
    await command(client, *damage)
    before = await everything(client)
    bad = group({"6": 1, "7": 1}, "bad")
    outcome = await store.apply("e1", moves(1, 2), [group({"7": 1}), bad, group({"7": 1}, "z")], note="11")
    assert outcome == Unfit(KEYS.tally(COUNTER, "bad"), bucket, reason, bad)
    assert await everything(client) == before


async def test_a_damaged_feed_number_stops_every_write(client: Redis, store: TallyStore) -> None:
    await command(client, "HSET", KEYS.meta, "sequence", "soon")
    before = await everything(client)
    outcome = await store.apply("e1", moves(0, 1), [group({"7": 1})])
    assert outcome == Unfit(KEYS.meta, "sequence", "it holds no integer", None)
    record = (await store.counters())[COUNTER]
    assert await store.set_counter("e1", record) == Unfit(KEYS.meta, "sequence", "it holds no integer", None)
    assert await everything(client) == before


async def test_a_consumer_that_slept_can_not_apply_what_another_one_did(client: Redis, store: TallyStore) -> None:
    """It holds (0, 10]; meanwhile another one applied (0, 5], which is a part of that."""
    assert await store.apply("e1", moves(0, 5), [group({"7": 5})]) == Applied()
    assert await store.apply("e1", moves(0, 10), [group({"7": 10})]) == Conflict("watermark", Lsn(5).version)
    assert await store.apply("e1", moves(5, 10), [group({"7": 5})]) == Applied()
    assert await tally(client) == {"7": 10}


async def test_a_repeated_call_is_applied_once_and_said_to_be_done(client: Redis, store: TallyStore) -> None:
    for _ in range(3):
        assert await store.apply("e1", moves(0, 5), [group({"7": 5})], note="10") == Applied()
    assert await tally(client) == {"7": 5}
    assert await store.recent() == ["10"]


@pytest.mark.parametrize(
    ("stored", "before", "after"),
    [
        # Another consumer applied the end of a transaction in one piece, or stands idle behind it.
        (Watermark(Lsn(10)), Watermark(Lsn(10), Partial(7, 3)), Watermark(Lsn(15))),
        (Watermark(Lsn(10)), Watermark(Lsn(5)), Watermark(Lsn(10), Partial(7, 3))),
        (Watermark(Lsn(10), Partial(7, 3)), Watermark(Lsn(5)), Watermark(Lsn(10))),
        (Watermark(Lsn(10), Partial(7, 4)), Watermark(Lsn(10), Partial(7, 3)), Watermark(Lsn(10), Partial(7, 5))),
    ],
)
async def test_one_field_that_happens_to_be_as_wanted_does_not_count_as_done(
    client: Redis, store: TallyStore, stored: Watermark, before: Watermark, after: Watermark
) -> None:
    await store.apply("e1", moves(0, stored), [])
    outcome = await store.apply("e1", moves(before, after), [group({"7": 1})])
    assert isinstance(outcome, Conflict)
    assert await tally(client) == {}


async def test_without_tallies_nothing_is_written(client: Redis, store: TallyStore) -> None:
    await command(client, "FLUSHALL")
    assert await store.apply("e1", moves(0, 1), [group({"7": 1})], note="1") == OtherEpoch("")
    assert await store.set_counter("e1", RECORD) == OtherEpoch("")
    assert await everything(client) == {}


async def test_an_older_epoch_changes_nothing(client: Redis, store: TallyStore) -> None:
    before = await everything(client)
    assert await store.apply("e0", moves(0, 1), [group({"7": 1})]) == OtherEpoch("e1")
    assert await everything(client) == before


async def test_a_server_that_forgot_the_scripts_gets_them_again(client: Redis, store: TallyStore) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 1})])
    await command(client, "SCRIPT", "FLUSH")
    assert await store.apply("e1", moves(1, 2), [group({"7": 1})]) == Applied()
    assert await tally(client) == {"7": 2}


@pytest.mark.parametrize("shape", ["one scope", "many scopes"])
async def test_more_keys_than_lua_has_room_on_its_stack(client: Redis, store: TallyStore, shape: str) -> None:
    deltas = {str(n): n - 10_000 for n in range(20_000) if n != 10_000}
    groups = (
        [group(deltas)] if shape == "one scope" else [group({"7": delta}, scope) for scope, delta in deltas.items()]
    )
    assert await store.apply("e1", moves(0, 1), groups) == Applied()
    if shape == "one scope":
        assert await tally(client) == deltas
    else:
        assert [await tally(client, scope) for scope in ("0", "19999")] == [{"7": -10_000}, {"7": 9_999}]
    assert await store.apply("e1", moves(1, 2), list(map(negated, groups))) == Applied()
    assert not [key for key in await everything(client) if b":tally:" in key]


async def test_notes_are_kept_in_order_and_the_oldest_leave(store: TallyStore) -> None:
    for number in range(4):
        await store.apply("e1", moves(number, number + 1), [], note=f"{number} x")
    await store.apply("e1", moves(4, 5), [], surplus_notes=2)
    assert await store.recent() == ["2 x", "3 x"]


@pytest.mark.parametrize("key", [KEYS.feed, KEYS.recent])
async def test_feed_and_notes_of_another_type_are_replaced(client: Redis, store: TallyStore, key: str) -> None:
    await command(client, "DEL", key)
    await command(client, "SET", key, "somebody's")
    assert await store.apply("e1", moves(0, 1), [group({"7": 1})], note="10") == Applied()
    assert await store.recent() == ["10"]
    assert await command(client, "XLEN", KEYS.feed) >= 1


def negated(one: TallyGroup) -> TallyGroup:
    return group({bucket: -delta for bucket, delta in one.deltas.items()}, one.scope)
