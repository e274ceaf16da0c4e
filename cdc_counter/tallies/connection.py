"""Connections to Redis, and what its errors mean here.

The client never retries by itself: what a lost reply means is decided by the compare-and-set, one level up.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from cdc_counter.cancellation import honour_cancellation
from cdc_counter.errors import CdcCounterError, NotReadyError, UnreachableError

_TIMEOUT: Final = 5.0
"""Seconds for a connection or a reply. A script call takes milliseconds; a forking or loading server, seconds."""

_PASSING: Final = re.compile(
    r"(?:^|[\s-])(?:LOADING|READONLY|MASTERDOWN|NOREPLICAS|MISCONF|BUSY|CLUSTERDOWN|TRYAGAIN|OOM|NOMASTERLINK)\b"
)
"""Error codes of a server that may recover: nothing was written, the same call is tried again. Redis 6.2 wraps what a
script's command was refused for into a longer message."""

_PASSING_CLASSES: Final = (
    BusyLoadingError, ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError,
)  # fmt: skip
"""The client takes the code off the message where it has a class for it."""


def connect(url: str) -> Redis:
    """Return a client that connects on first use. Values come as bytes."""
    return Redis.from_url(
        url,
        protocol=2,
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


async def command(client: Redis, *arguments: str | bytes | int) -> Any:
    """Send one command; the reply's shape is the one Redis documents, with maps as dicts and texts as bytes."""
    # The library's own methods are typed for a synchronous client as well, so that every reply may be anything.
    reply = await client.execute_command(*arguments)  # type: ignore[no-untyped-call]
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
        raise UnreachableError(f"redis: {what}: {error or type(error).__name__}") from error


def _translate(error: RedisError, what: str) -> CdcCounterError:
    message = f"redis: {what}: {error}"
    if isinstance(error, AuthenticationError):
        return NotReadyError(message, hint="correct the user and password in redis.url")
    if isinstance(error, AuthorizationError | NoPermissionError):
        return NotReadyError(message, hint="give the Redis user of redis.url the rights listed in docs/operations.md")
    if isinstance(error, _PASSING_CLASSES) or not isinstance(error, ResponseError) or _PASSING.search(str(error)):
        return UnreachableError(message)
    return CdcCounterError(message)
