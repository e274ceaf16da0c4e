"""What is confirmed by policy: asked on one connection, about one history, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cdc_counter.core.durability import NotKept, Policy
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied, Conflict, OtherEpoch
from cdc_counter.embedded import RedisServer
from cdc_counter.errors import NotReadyError, UnreachableError
from cdc_counter.tallies.connection import command, connect
from cdc_counter.tallies.durability import Durability
from cdc_counter.tallies.keys import Keys
from cdc_counter.tallies.lease import Lease, leased
from cdc_counter.tallies.store import TallyStore
from tests.integration.tallies.conftest import PREFIX, begin, group, moves
from tests.rig.eventually import eventually_sync
from tests.rig.redis import ask as bare
from tests.rig.redis_pair import RedisPair, follows, redis_pair
from tests.rig.servers import newer_redis


@pytest.fixture
def pair() -> Iterator[RedisPair]:
    with redis_pair() as made:
        yield made


@pytest.fixture
def newer() -> Iterator[RedisServer]:
    with RedisServer(program=newer_redis()) as server:
        yield server


@asynccontextmanager
async def tallies_at(server: RedisServer, lsn: int) -> AsyncIterator[Redis]:
    """Begin an epoch and apply one step up to an LSN; gives a client."""
    client = connect(server.url)
    try:
        store = TallyStore(client, PREFIX, 20_000)
        await begin(store)
        assert await store.apply("e1", moves(0, lsn), [group({"7": 1})]) == Applied()
        yield client
    finally:
        await client.aclose()


def replicated(client: Redis, seconds: float = 0.3) -> Durability:
    return Durability(client, PREFIX, Policy.REPLICATED, replicas=1, seconds=seconds)


def fsynced(client: Redis, replicas: int = 0, seconds: float = 4.0) -> Durability:
    return Durability(client, PREFIX, Policy.FSYNCED, replicas=replicas, seconds=seconds)


async def test_what_a_replica_has_is_durable_and_what_it_lacks_is_not(pair: RedisPair) -> None:
    async with tallies_at(pair.master, 5) as client:
        assert await replicated(client, 4).ask("e1", Lsn(5)) == Applied()
        pair.copying.hold()
        await TallyStore(client, PREFIX, 20_000).apply("e1", moves(5, 6), [group({"7": 1})])
        assert await replicated(client).ask("e1", Lsn(6)) == NotKept("0 of 1 replicas had it within 0.3 s")
        # Also nothing that it has: the question is about everything before.
        assert isinstance(await replicated(client).ask("e1", Lsn(5)), NotKept)
        pair.copying.release()
        assert await replicated(client, 4).ask("e1", Lsn(6)) == Applied()


async def test_an_earlier_answer_says_nothing_of_a_server_without_replicas(pair: RedisPair) -> None:
    async with tallies_at(pair.master, 5) as client:
        assert await replicated(client, 4).ask("e1", Lsn(5)) == Applied()
        pair.replica.stop()
        assert isinstance(await replicated(client).ask("e1", Lsn(5)), NotKept)


async def test_tallies_that_went_back_or_are_others_are_not_durable(pair: RedisPair) -> None:
    async with tallies_at(pair.master, 5) as client:
        assert await replicated(client, 4).ask("e1", Lsn(6)) == Conflict("watermark", Lsn(5).version)
        assert await replicated(client, 4).ask("e2", Lsn(5)) == OtherEpoch("e1")
        await command(client, "DEL", Keys(PREFIX).meta)
        assert await replicated(client, 4).ask("e1", Lsn(5)) == OtherEpoch("")


async def test_a_server_that_is_demoted_while_it_waits_has_made_nothing_durable(pair: RedisPair) -> None:
    async with tallies_at(pair.master, 5) as client:
        pair.copying.hold()
        question = asyncio.create_task(replicated(client, 4).ask("e1", Lsn(5)))
        await asyncio.to_thread(
            eventually_sync, lambda: b"cmd=wait" in bare(pair.master.port, "CLIENT", "LIST"), "it waits", deadline=30
        )
        bare(pair.master.port, "REPLICAOF", "127.0.0.1", pair.replica.port)
        with pytest.raises(UnreachableError, match="UNBLOCKED"):
            await question


async def test_an_answer_about_another_history_does_not_count(pair: RedisPair) -> None:
    """Between write and WAIT the server becomes a copy of the other one and is promoted again, its connections open."""

    class Disturbed(Durability):
        async def _wait(self, lease: Lease) -> NotKept | None:
            one, other = pair.master.port, pair.replica.port
            bare(other, "REPLICAOF", "NO", "ONE")
            bare(one, "REPLICAOF", "127.0.0.1", other)
            await asyncio.to_thread(eventually_sync, lambda: follows(pair.master), "it is a copy", deadline=60)
            bare(one, "REPLICAOF", "NO", "ONE")
            bare(other, "REPLICAOF", "127.0.0.1", one)
            await asyncio.to_thread(eventually_sync, lambda: follows(pair.replica), "it has a copy", deadline=60)
            return await super()._wait(lease)

    async with tallies_at(pair.master, 5) as client:
        disturbed = Disturbed(client, PREFIX, Policy.REPLICATED, replicas=1, seconds=4)
        assert await disturbed.ask("e1", Lsn(5)) == NotKept("the server was promoted or demoted meanwhile")


async def test_a_leased_connection_is_not_replaced(server: RedisServer) -> None:
    client = connect(server.url)
    try:
        async with leased(client) as lease:
            number = await command(lease, "CLIENT", "ID")
            bare(server.port, "CLIENT", "KILL", "ID", number)
            for _ in range(2):
                with pytest.raises(RedisConnectionError):
                    await command(lease, "PING")
        assert await command(client, "PING")
    finally:
        await client.aclose()


async def test_the_master_alone_is_enough_where_its_disk_is_asked_for(newer: RedisServer) -> None:
    async with tallies_at(newer, 5) as client:
        assert await fsynced(client).ask("e1", Lsn(5)) == Applied()
        await command(client, "CONFIG", "SET", "appendfsync", "always")
        assert await fsynced(client, replicas=1, seconds=0.3).ask("e1", Lsn(5)) == NotKept(
            "0 of 1 replicas had it on disk within 0.3 s"
        )


async def test_a_disk_that_is_never_synced_makes_nothing_durable(newer: RedisServer) -> None:
    async with tallies_at(newer, 5) as client:
        await command(client, "CONFIG", "SET", "appendfsync", "no")
        assert isinstance(await fsynced(client, seconds=0.5).ask("e1", Lsn(5)), NotKept)
        await command(client, "CONFIG", "SET", "appendonly", "no")
        assert await fsynced(client).ask("e1", Lsn(5)) == NotKept(
            "the server has no append-only file: appendonly is no"
        )


async def test_a_server_without_waitaof_is_told_at_once(redis_server: RedisServer, redis_url: str) -> None:
    async with tallies_at(redis_server, 5) as client:
        with pytest.raises(NotReadyError, match="does not know WAITAOF"):
            await fsynced(client).ask("e1", Lsn(5))
