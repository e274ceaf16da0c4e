"""One connection for several commands that belong together: no client's pool puts another in its place.

A pool connects again without a word, perhaps to a server that was restarted or promoted meanwhile. What was asked
before says nothing of that one: WAIT there waits for no write of ours, and a SCAN goes on in a table of another order.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Lease:
    """The connection; once it is lost every command fails."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute_command(self, *arguments: str | bytes | float) -> Any:
        """Send one command; the reply is as the server sends it."""
        if not self._connection.is_connected:
            raise RedisConnectionError("the connection was lost between two commands")
        (reply,) = await exchange(self._connection, arguments)
        return reply


@asynccontextmanager
async def leased(client: Redis) -> AsyncIterator[Lease]:
    """Take a connection out of the client's pool for the duration of a block."""
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    try:
        yield Lease(connection)
    except BaseException:
        # A reply may still be on its way.
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


async def exchange(connection: Any, *commands: tuple[str | bytes | float, ...]) -> list[Any]:
    """Send commands at once over a connection and return their replies; raises errors as the library's client does.

    Where the server replied errors the first of them is raised, once every reply has come. The connection is lost when
    this is cancelled, or raises anything else.
    """
    # The library would pack in Python, and make a task and a timer to send and another timer to read.
    seconds, connection.socket_timeout = connection.socket_timeout, None
    replies: list[Any] = []
    refused: ResponseError | None = None
    try:
        async with asyncio.timeout(seconds):
            packed = b"".join(map(pack_command, commands))  # type: ignore[arg-type]  # annotated as a tuple of one
            await connection.send_packed_command(packed, check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    refused = refused or error
    except TimeoutError as error:
        raise RedisTimeoutError(f"no reply within {seconds:g} s") from error
    finally:
        connection.socket_timeout = seconds
    if refused is not None:
        raise refused
    return replies
