"""One connection for several commands that belong together: no client's pool puts another in its place.

A pool connects again without a word, perhaps to a server that was restarted or promoted meanwhile. What was asked
before says nothing of that one: WAIT there waits for no write of ours, and a SCAN goes on in a table of another order.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError


class Lease:
    """The connection; once it is lost every command fails."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute_command(self, *arguments: str | bytes | float) -> Any:
        """Send one command; the reply is as the server sends it."""
        if not self._connection.is_connected:
            raise RedisConnectionError("the connection was lost between two commands")
        await self._connection.send_command(*arguments)
        return await self._connection.read_response()


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
