"""Looks at a Redis server before tallies are written to it, for what would lose, drop or refuse them.

Everything is read with INFO, which managed services allow where they refuse CONFIG. The rules are pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from cdc_counter.config import RedisSettings
from cdc_counter.core.durability import Policy
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.tallies.connection import command, translated_errors
from cdc_counter.tallies.durability import FIRST_WITH_WAITAOF, NO_WAITAOF, USE_REPLICATED

OLDEST: Final = (6, 2)
"""The first with the commands and script behaviour that the tests cover."""

_FULL_SHARE: Final = 0.8
"""From here a burst of new buckets can reach maxmemory before somebody looks."""


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What INFO says."""

    version: str
    role: str
    cluster: bool
    policy: str
    used_memory: int
    maxmemory: int
    appendonly: bool
    replicas: int = 0

    @property
    def release(self) -> tuple[int, ...]:
        """Major and minor number."""
        return tuple(int(part) for part in self.version.split(".")[:2])


async def check_redis(client: Redis, settings: RedisSettings) -> list[Finding]:
    """Return what is wrong, errors first. Raises UnreachableError, or NotReadyError when INFO is not allowed."""
    with translated_errors("reading the server's settings"):
        info: Mapping[str, Any] = await command(client, "INFO")
    findings = judge(_facts(info), settings)
    return sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)


def judge(facts: RedisFacts, settings: RedisSettings) -> Iterator[Finding]:
    """Yield what is wrong with the server for tallies that are kept as `settings` say."""
    yield from _kind(facts, settings.prefix)
    yield from _memory(facts)
    yield from _confirming(facts, settings)
    if not facts.appendonly:
        yield Finding(
            Severity.WARNING,
            "appendonly is no: a crash takes Redis back to its last save, or to nothing, and a reseed is needed",
            "appendonly yes    # in redis.conf; at once: CONFIG SET appendonly yes",
        )


def _facts(info: Mapping[str, Any]) -> RedisFacts:
    return RedisFacts(
        # Valkey says 7.2.4, the Redis release it is compatible with.
        version=str(info["redis_version"]),
        role=str(info.get("role", "master")),
        cluster=bool(int(info.get("cluster_enabled", 0))),
        policy=str(info.get("maxmemory_policy", "noeviction")),
        used_memory=int(info.get("used_memory", 0)),
        maxmemory=int(info.get("maxmemory", 0)),
        appendonly=bool(int(info.get("aof_enabled", 0))),
        replicas=int(info.get("connected_slaves", 0)),
    )


def _kind(facts: RedisFacts, prefix: str) -> Iterator[Finding]:
    if facts.release < OLDEST:
        yield Finding(
            Severity.ERROR,
            f"Redis {facts.version} is too old",
            f"upgrade to Redis {OLDEST[0]}.{OLDEST[1]} or later, or to Valkey",
        )
    if facts.role != "master":
        yield Finding(
            Severity.ERROR,
            "the Redis server is a replica: tallies are written to its master",
            "url = ...    # in [redis]: the master's address",
        )
    if facts.cluster and "{" not in prefix:
        yield Finding(
            Severity.ERROR,
            f"Redis runs as a cluster, and prefix {prefix!r} has no hash tag: one script can't reach all its keys",
            f'prefix = "{{{prefix}}}"    # in [redis]',
        )


def _confirming(facts: RedisFacts, settings: RedisSettings) -> Iterator[Finding]:
    if settings.confirm is Policy.APPLIED:
        return
    if settings.confirm is Policy.FSYNCED:
        if facts.release < FIRST_WITH_WAITAOF:
            yield Finding(Severity.ERROR, f"{NO_WAITAOF}; this is {facts.version}", USE_REPLICATED)
        if not facts.appendonly:
            yield Finding(
                Severity.ERROR,
                "redis.confirm is fsynced, and appendonly is no: there is no file to sync",
                "appendonly yes    # in redis.conf; at once: CONFIG SET appendonly yes",
            )
    if facts.replicas < settings.confirm_replicas:
        yield Finding(
            Severity.ERROR,
            f"redis.confirm waits for {settings.confirm_replicas} replicas, and the server has {facts.replicas}: "
            "nothing would ever be confirmed",
            'confirm = "applied"    # in [redis]; or connect more replicas',
        )


async def check_policy(client: Redis) -> list[Finding]:
    """Return whether the server may drop tallies. Raises as `check_redis`."""
    with translated_errors("reading the server's settings"):
        info: Mapping[str, Any] = await command(client, "INFO")
    return [finding for finding in _policy(_facts(info)) if finding.severity is Severity.ERROR]


def _memory(facts: RedisFacts) -> Iterator[Finding]:
    yield from _policy(facts)
    if facts.maxmemory and facts.used_memory >= facts.maxmemory * _FULL_SHARE:
        yield Finding(
            Severity.WARNING,
            f"Redis uses {facts.used_memory:,} of maxmemory {facts.maxmemory:,} bytes; full, it refuses every batch",
            f"maxmemory {facts.maxmemory * 2}    # in redis.conf; at once: CONFIG SET maxmemory {facts.maxmemory * 2}",
        )


def _policy(facts: RedisFacts) -> Iterator[Finding]:
    if facts.policy.startswith("allkeys"):
        yield Finding(
            Severity.ERROR,
            f"maxmemory-policy is {facts.policy}: Redis drops tallies when memory runs out, without a word",
            "maxmemory-policy noeviction    # in redis.conf; at once: CONFIG SET maxmemory-policy noeviction",
        )
    elif facts.policy != "noeviction":
        yield Finding(
            Severity.WARNING,
            f"maxmemory-policy is {facts.policy}: tallies never expire and are safe, but other keys may be dropped",
            "maxmemory-policy noeviction    # in redis.conf; at once: CONFIG SET maxmemory-policy noeviction",
        )
