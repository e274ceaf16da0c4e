"""A server that refuses for a while: nothing is applied, the error may be retried, and then it is applied, once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from cdc_counter.core.outcome import Applied
from cdc_counter.embedded import RedisServer
from cdc_counter.errors import UnreachableError
from cdc_counter.tallies.connection import connect
from cdc_counter.tallies.store import TallyStore
from tests.integration.tallies.conftest import PREFIX, begin, group, moves, tally
from tests.rig.eventually import eventually
from tests.rig.redis import ask


@pytest.fixture
async def refusing() -> AsyncIterator[RedisServer]:
    """Start a server of its own, which a test may spoil."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def own_client(refusing: RedisServer) -> AsyncIterator[Redis]:
    client = connect(refusing.url)
    yield client
    await client.aclose()


@pytest.fixture
async def own_store(own_client: Redis) -> TallyStore:
    made = TallyStore(own_client, PREFIX, 20_000)
    await begin(made)
    await made.apply("e1", moves(0, 1), [group({"7": 1})])
    return made


async def refused(call: Callable[[], Awaitable[object]], words: str) -> None:
    """Wait until a call is refused with these words; it must be said that it may be tried again."""

    async def said() -> bool:
        try:
            await call()
        except UnreachableError as error:
            return words in str(error)
        return False

    await eventually(said, f"refused with {words}", deadline=60)


async def applied_at_last(client: Redis, store: TallyStore) -> None:
    """Apply the step that was refused, as often as it takes: it counts once."""

    async def applied() -> bool:
        try:
            return await store.apply("e1", moves(1, 2), [group({"7": 10})]) == Applied()
        except UnreachableError:
            return False

    await eventually(applied, "the step is applied", deadline=60)
    assert await tally(client) == {"7": 11}


async def test_a_long_script_of_somebody_else_is_waited_for(
    refusing: RedisServer, own_client: Redis, own_store: TallyStore
) -> None:
    ask(refusing.port, "CONFIG", "SET", "lua-time-limit", 50)
    endless = asyncio.create_task(asyncio.to_thread(_run_endless, refusing.port))
    try:
        await refused(lambda: own_store.apply("e1", moves(1, 2), [group({"7": 10})]), "BUSY")
    finally:
        ask(refusing.port, "SCRIPT", "KILL")
        assert "Script killed" in await endless
    await applied_at_last(own_client, own_store)


def _run_endless(port: int) -> str:
    try:
        ask(port, "EVAL", "while true do end", 0)
    except Exception as error:  # noqa: BLE001  # whatever ends it is told
        return str(error)
    return ""


async def test_scripts_that_were_forgotten_are_sent_again(
    refusing: RedisServer, own_client: Redis, own_store: TallyStore
) -> None:
    ask(refusing.port, "SCRIPT", "FLUSH")
    assert await own_store.apply("e1", moves(1, 2), [group({"7": 10})]) == Applied()
    assert await tally(own_client) == {"7": 11}


async def test_a_server_that_reads_its_file_back_is_waited_for(
    refusing: RedisServer, own_client: Redis, own_store: TallyStore
) -> None:
    # While it loads a server looks for clients every 2 MB.
    ask(refusing.port, "CONFIG", "SET", "rdbcompression", "no")
    ask(refusing.port, "DEBUG", "POPULATE", 60_000, "noise", 400)
    ask(refusing.port, "BGREWRITEAOF")
    await eventually(
        lambda: asyncio.to_thread(ask, refusing.port, "INFO", "persistence"),
        "the file holds them",
        until=lambda text: b"aof_rewrite_in_progress:0" in text and b"aof_rewrite_scheduled:0" in text,
        deadline=60,
    )
    refusing.settings["key-load-delay"] = "50"
    refusing.kill()
    starting = asyncio.create_task(asyncio.to_thread(refusing.start))
    await refused(lambda: own_store.apply("e1", moves(1, 2), [group({"7": 10})]), "loading the dataset")
    await starting
    await applied_at_last(own_client, own_store)


async def test_a_server_that_can_not_save_is_waited_for(
    refusing: RedisServer, own_client: Redis, own_store: TallyStore
) -> None:
    obstacle = refusing.data_dir / "dump.rdb"
    obstacle.mkdir()
    ask(refusing.port, "CONFIG", "SET", "save", "3600 1")
    ask(refusing.port, "BGSAVE")
    # Before that the step would be applied.
    await eventually(
        lambda: asyncio.to_thread(ask, refusing.port, "INFO", "persistence"),
        "saving has failed",
        until=lambda text: b"rdb_last_bgsave_status:err" in text,
        deadline=60,
    )
    await refused(lambda: own_store.apply("e1", moves(1, 2), [group({"7": 10})]), "MISCONF")
    obstacle.rmdir()
    ask(refusing.port, "BGSAVE")
    await applied_at_last(own_client, own_store)


async def test_a_replica_without_its_master_is_waited_for(
    refusing: RedisServer, own_client: Redis, own_store: TallyStore
) -> None:
    ask(refusing.port, "CONFIG", "SET", "replica-serve-stale-data", "no")
    ask(refusing.port, "REPLICAOF", "127.0.0.1", 1)
    await refused(lambda: own_store.apply("e1", moves(1, 2), [group({"7": 10})]), "MASTER is down")
    await refused(own_store.load, "MASTER is down")
    ask(refusing.port, "REPLICAOF", "NO", "ONE")
    await applied_at_last(own_client, own_store)
