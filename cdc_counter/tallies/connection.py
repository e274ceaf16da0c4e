"""Connections to Redis, alone, behind Sentinel or as a cluster, and what its errors mean here.

The client never retries by itself: what a lost reply means is decided by the compare-and-set, one level up.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from redis.asyncio import Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from cdc_counter.cancellation import honour_cancellation
from cdc_counter.config import RedisSettings
from cdc_counter.errors import CdcCounterError, NotReadyError, UnreachableError
from cdc_counter.tallies.whereabouts import ASK_TIMEOUT, ClusterSlot, FindingPool, SentinelMaster, Whereabouts

_TIMEOUT: Final = 5.0
"""Seconds for a connection or a reply. A script call takes milliseconds; a forking or loading server, seconds."""

_PASSING: Final = re.compile(
    r"(?:^|[\s-])(?:LOADING|READONLY|MASTERDOWN|NOREPLICAS|MISCONF|BUSY|CLUSTERDOWN|TRYAGAIN|OOM|NOMASTERLINK|UNBLOCKED)\b"
)
"""Error codes of a server that may recover: nothing was written, the same call is tried again. Redis 6.2 wraps what a
script's command was refused for into a longer message."""

_PASSING_CLASSES: Final = (
    AskError, BusyLoadingError, ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError,
)  # fmt: skip
"""The client takes the code off the message where it has a class for it."""


_HINTS: Final[Mapping[type[RedisError], str]] = {
    AuthenticationError: "correct the user and password in redis.url",
    AuthorizationError: "give the Redis user of redis.url the rights listed in docs/operations.md",
    NoPermissionError: "give the Redis user of redis.url the rights listed in docs/operations.md",
    MovedError: "set redis.cluster = true: the server is a node of a Redis Cluster",
    ClusterCrossSlotError: "put a hash tag into redis.prefix, such as '{cdc}'",
}
"""What only the operator can mend."""


def connect(url: str) -> Redis:
    """Return a client of one server, that connects on first use. Values come as bytes."""
    return Redis.from_url(url, **_options(_TIMEOUT))


def connect_as(settings: RedisSettings) -> Redis:
    """Return a client of whichever server has the tallies now; otherwise as `connect`."""
    asking = {**_as_arguments(settings.url), **_options(ASK_TIMEOUT)}
    whereabouts: Whereabouts
    if settings.sentinels:
        asking |= {"username": None, "password": settings.sentinel_password}
        whereabouts = SentinelMaster(settings.sentinel_master or "", settings.sentinel_addresses, **asking)
    elif settings.cluster:
        whereabouts = ClusterSlot(settings.prefix, settings.cluster_addresses, **asking)
    else:
        return connect(settings.url)
    return Redis.from_pool(FindingPool(settings.url, whereabouts, **_options(_TIMEOUT)))


def _options(timeout: float) -> dict[str, Any]:
    return {
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }


def _as_arguments(url: str) -> dict[str, Any]:
    """Return what a URL says but for address and database, as a client's arguments."""
    said: dict[str, Any] = {**parse_url(url)}
    tls = said.get("connection_class") is SSLConnection
    return {k: v for k, v in said.items() if k not in {"host", "port", "db", "connection_class"}} | {"ssl": tls}


class Commands(Protocol):
    """Where one command can be sent: a client, or one connection of it."""

    async def execute_command(self, *arguments: Any) -> Any:
        """Send it; return the reply."""


async def command(client: Commands, *arguments: str | bytes | int) -> Any:
    """Send one command; the reply's shape is the one Redis documents, with maps as dicts and texts as bytes."""
    # The library's own methods are typed for a synchronous client as well, so that every reply may be anything.
    reply = await client.execute_command(*arguments)
    honour_cancellation()
    return reply


@contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Turn redis errors into this project's; `what` says what was tried."""
    try:
        yield
    except RedisError as error:
        raise _translate(error, what) from error
    except (OSError, TimeoutError) as error:
        raise UnreachableError(f"redis: {what}: {str(error) or type(error).__name__}") from error


def _translate(error: RedisError, what: str) -> CdcCounterError:
    message = f"redis: {what}: {error}"
    for kind, hint in _HINTS.items():
        if isinstance(error, kind):
            return NotReadyError(message, hint=hint)
    if isinstance(error, _PASSING_CLASSES) or not isinstance(error, ResponseError) or _PASSING.search(str(error)):
        return UnreachableError(message)
    return CdcCounterError(message)
