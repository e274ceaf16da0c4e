"""Every check against a real Redis that is set up badly."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from cdc_counter.config import RedisSettings
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.embedded import RedisServer
from cdc_counter.embedded.child import free_port
from cdc_counter.errors import NotReadyError, UnreachableError
from cdc_counter.tallies.connection import connect
from cdc_counter.tallies.readiness import check_redis

Started = Callable[[Mapping[str, str]], RedisServer]


@pytest.fixture
def started() -> Iterator[Started]:
    """Start a Redis with these settings."""
    with ExitStack() as running:
        yield lambda settings: running.enter_context(RedisServer(settings=settings))


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()


async def found(url: str, prefix: str = "cdc") -> list[Finding]:
    async with client_of(url) as client:
        return await check_redis(client, RedisSettings(prefix=prefix))


async def the_one(url: str, prefix: str = "cdc") -> Finding:
    findings = await found(url, prefix)
    assert len(findings) == 1, findings
    return findings[0]


async def test_redis_as_it_should_be_has_no_findings(redis_url: str) -> None:
    assert await found(redis_url) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_policy_that_drops_any_key_is_refused_and_its_remedy_helps(started: Started, policy: str) -> None:
    server = started({"maxmemory-policy": policy})
    finding = await the_one(server.url)
    assert finding.severity is Severity.ERROR
    assert finding.title.startswith(f"maxmemory-policy is {policy}")
    async with client_of(server.url) as client:
        await client.execute_command(*finding.remedy.partition("at once: ")[2].split())  # type: ignore[no-untyped-call] # untyped in redis
    assert await found(server.url) == []


async def test_policy_that_drops_expiring_keys_is_only_warned_about(started: Started) -> None:
    finding = await the_one(started({"maxmemory-policy": "volatile-ttl"}).url)
    assert finding.severity is Severity.WARNING


async def test_redis_without_append_only_file_is_warned_about(started: Started) -> None:
    finding = await the_one(started({"appendonly": "no"}).url)
    assert finding.severity is Severity.WARNING
    assert finding.title.startswith("appendonly is no")


async def test_replica_is_refused(redis_url: str, redis_server: RedisServer, started: Started) -> None:
    # Without an append-only file: a replica that is writing its first one refuses to end.
    server = started({"appendonly": "no"})
    async with client_of(server.url) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", redis_server.port)  # type: ignore[no-untyped-call] # untyped in redis
    finding, _ = await found(server.url)
    assert finding.severity is Severity.ERROR
    assert "is a replica" in finding.title


def cluster_node(started: Started) -> RedisServer:
    """Start one. Its bus listens 10,000 ports higher, where an outgoing connection of somebody else's may be."""
    for _ in range(5):
        with contextlib.suppress(NotReadyError):
            return started({"cluster-enabled": "yes"})
    return started({"cluster-enabled": "yes"})


async def test_cluster_needs_a_hash_tag(started: Started) -> None:
    server = cluster_node(started)
    finding = await the_one(server.url)
    assert finding.severity is Severity.ERROR
    assert finding.remedy.startswith('prefix = "{cdc}"')
    assert await found(server.url, "{cdc}") == []


async def test_nearly_full_memory_is_warned_about_with_both_numbers(started: Started) -> None:
    finding = await the_one(started({"maxmemory": "1000000"}).url)
    assert finding.severity is Severity.WARNING
    assert "of maxmemory 1,000,000 bytes" in finding.title


async def test_absent_redis_is_unreachable_not_unready() -> None:
    with pytest.raises(UnreachableError, match="reading the server's settings"):
        await found(f"redis://127.0.0.1:{free_port()}/0")


async def test_wrong_password_is_told_without_showing_it(started: Started) -> None:
    server = started({})
    async with client_of(server.url) as client:
        await client.config_set("requirepass", "right")
    with pytest.raises(NotReadyError) as caught:
        await found(server.url.replace("redis://", "redis://:hunter2@"))
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
