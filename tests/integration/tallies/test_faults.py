"""A network that loses replies, a server that refuses, forgets or comes back older."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from cdc_counter.core.outcome import Applied, OtherEpoch
from cdc_counter.embedded import RedisServer
from cdc_counter.errors import CdcCounterError, ReseedNeededError, UnreachableError
from cdc_counter.soak.proxy import FaultProxy
from cdc_counter.tallies.connection import command, connect
from cdc_counter.tallies.keys import Keys
from cdc_counter.tallies.store import TallyStore
from tests.integration.tallies.conftest import COUNTER, PREFIX, RECORD, begin, everything, group, moves, tally
from tests.rig.eventually import eventually

KEYS = Keys(PREFIX)


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.port) as running:
        yield running


@pytest.fixture
async def through(proxy: FaultProxy, store: TallyStore) -> AsyncIterator[TallyStore]:
    """Give a second store, behind the proxy."""
    opened = connect(f"redis://127.0.0.1:{proxy.port}/0")
    yield TallyStore(opened, PREFIX, 20_000)
    await opened.aclose()


async def test_a_call_whose_reply_is_lost_is_applied_once(
    client: Redis, through: TallyStore, proxy: FaultProxy
) -> None:
    await through.apply("e1", moves(0, 1), [group({"7": 1})])
    proxy.cut_after(0, "from")
    with pytest.raises(UnreachableError, match="applying deltas"):
        await through.apply("e1", moves(1, 2), [group({"7": 10})], note="10")
    assert await tally(client) == {"7": 11}, "the server did run it"
    proxy.pass_on()
    assert await through.apply("e1", moves(1, 2), [group({"7": 10})], note="10") == Applied()
    assert await tally(client) == {"7": 11}
    assert await through.recent() == ["10"]


async def test_a_call_that_never_arrived_is_applied_when_it_is_repeated(
    client: Redis, through: TallyStore, proxy: FaultProxy
) -> None:
    await through.apply("e1", moves(0, 1), [group({"7": 1})])
    proxy.cut()
    proxy.refuse()
    with pytest.raises(UnreachableError):
        await through.apply("e1", moves(1, 2), [group({"7": 10})])
    assert await tally(client) == {"7": 1}
    proxy.pass_on()
    assert await through.apply("e1", moves(1, 2), [group({"7": 10})]) == Applied()
    assert await tally(client) == {"7": 11}


async def test_an_epoch_whose_begin_was_not_answered_is_begun_once(
    client: Redis, through: TallyStore, proxy: FaultProxy
) -> None:
    await through.load()
    proxy.cut_after(0, "from")
    with pytest.raises(UnreachableError):
        await begin(through, "e1", "e2")
    before = await everything(client)
    proxy.pass_on()
    await begin(through, "e1", "e2")
    assert await everything(client) == before


async def test_a_server_out_of_memory_takes_nothing_and_may_be_asked_again(client: Redis, store: TallyStore) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 1})], note="10")
    before = await everything(client)
    await command(client, "CONFIG", "SET", "maxmemory", 1)
    try:
        for groups in ([group({"7": 1, "8": 1})], [group({"8": 1})], [], [group({"7": 1}, hidden=True)]):
            with pytest.raises(UnreachableError, match="maxmemory"):
                await store.apply("e1", moves(1, 2), groups, note="11", surplus_notes=0)
            assert await everything(client) == before
    finally:
        await command(client, "CONFIG", "SET", "maxmemory", 0)
    assert await store.apply("e1", moves(1, 2), [group({"7": 1})], note="11") == Applied()
    assert await store.recent() == ["10", "11"]


async def test_a_removal_goes_through_where_memory_is_out_and_is_whole(client: Redis, store: TallyStore) -> None:
    """What frees memory is let through by Redis; then all the rest of the call has to be."""
    await store.apply("e1", moves(0, 1), [group({"7": 1}), group({"7": 1}, "43")], note="10")
    await command(client, "CONFIG", "SET", "maxmemory", 1)
    try:
        try:
            outcome = await store.apply("e1", moves(1, 2), [group({"7": -1}), group({"7": 5}, "43")], note="11")
        except UnreachableError:
            assert (await tally(client), await tally(client, "43")) == ({"7": 1}, {"7": 1})
        else:
            assert outcome == Applied()
            assert (await tally(client), await tally(client, "43")) == ({}, {"7": 6})
            assert await store.recent() == ["10", "11"]
    finally:
        await command(client, "CONFIG", "SET", "maxmemory", 0)


async def test_a_replica_takes_nothing_and_may_be_asked_again(server: RedisServer, store: TallyStore) -> None:
    await store.apply("e1", moves(0, 1), [group({"7": 1})])
    settings = {"replicaof": f"127.0.0.1 {server.port}"}
    with RedisServer(program=server.program, settings=settings) as replica:
        opened = connect(replica.url)
        try:
            follower = TallyStore(opened, PREFIX, 20_000)
            await eventually(lambda: tally(opened), "the replica has the tallies")
            for call in (
                follower.apply("e1", moves(1, 2), [group({"7": 1})], note="10"),
                follower.apply("e1", moves(1, 2), [], note="10"),
                follower.set_counter("e1", RECORD),
            ):
                with pytest.raises(UnreachableError, match="read only replica"):
                    await call
        finally:
            await opened.aclose()


async def test_a_minimum_of_replicas_that_is_missing_may_come_back(client: Redis, store: TallyStore) -> None:
    await command(client, "CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        with pytest.raises(UnreachableError, match="NOREPLICAS"):
            await store.apply("e1", moves(0, 1), [group({"7": 1})])
    finally:
        await command(client, "CONFIG", "SET", "min-replicas-to-write", 0)
    assert await tally(client) == {}


async def test_tallies_survive_a_crash_of_the_server(server: RedisServer, store: TallyStore) -> None:
    for number in range(50):
        await store.apply("e1", moves(number, number + 1), [group({"7": 1})])
    server.kill()
    with pytest.raises(UnreachableError):
        await store.apply("e1", moves(50, 51), [group({"7": 1})])
    server.start()
    assert await store.apply("e1", moves(50, 51), [group({"7": 1})]) == Applied()


async def test_lost_tallies_are_never_taken_for_zero(client: Redis, store: TallyStore) -> None:
    await command(client, "FLUSHALL")
    assert await store.load() is None
    assert await store.apply("e1", moves(0, 1), [group({"7": 1})]) == OtherEpoch("")


@pytest.mark.parametrize(
    "damage",
    [
        ["HDEL", KEYS.meta, "watermark"],
        ["HSET", KEYS.meta, "watermark", "0/10"],
        ["HSET", KEYS.meta, "partial", "seven"],
        ["HSET", KEYS.meta, "timeline", b"\xff"],
        ["HDEL", KEYS.meta, "epoch"],
    ],
    ids=["no watermark", "watermark", "partial", "bytes", "no epoch"],
)
async def test_a_damaged_watermark_needs_a_reseed(client: Redis, store: TallyStore, damage: list[str]) -> None:
    await command(client, *damage)
    with pytest.raises(ReseedNeededError, match="t:meta is damaged"):
        await store.load()


async def test_two_processes_can_not_both_begin_an_epoch(client: Redis, store: TallyStore) -> None:
    await begin(store, "e1", "e2")
    before = await everything(client)
    with pytest.raises(ReseedNeededError, match="redis holds epoch 'e2' instead of 'e1'"):
        await begin(store, "e1", "e3")
    assert await everything(client) == before


async def test_a_new_epoch_begins_whatever_the_feed_and_its_number_look_like(client: Redis, store: TallyStore) -> None:
    await command(client, "XADD", KEYS.feed, "9999999999999999-0", "reset", "")
    await command(client, "HSET", KEYS.meta, "sequence", "nonsense")
    await begin(store, "e1", "e2")
    assert (await store.load()) is not None
    assert await store.set_counter("e2", RECORD) == Applied()
    assert await store.apply("e2", moves(0, 1), [group({"7": 1})]) == Applied()


async def test_a_key_of_another_type_in_the_place_of_ours_is_an_error_that_names_it(
    client: Redis, store: TallyStore
) -> None:
    await command(client, "DEL", KEYS.meta)
    await command(client, "SET", KEYS.meta, "x")
    with pytest.raises(CdcCounterError, match="WRONGTYPE"):
        await store.apply("e1", moves(0, 1), [group({"7": 1})])
    assert await command(client, "EXISTS", KEYS.tally(COUNTER, "42")) == 0
