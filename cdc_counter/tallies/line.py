"""The quick way to send the same commands again and again: one connection, kept.

The library's client takes a connection out of its pool for each command and puts it back. With that, and with what
`exchange` spares, a script call costs 120 microseconds of CPU instead of 200, and a transaction of four reads 110
instead of 290, as measured.
"""

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from cdc_counter.cancellation import honour_cancellation
from cdc_counter.tallies.lease import exchange


class Line:
    """Sends commands over one of a client's connections, and connects again where it was lost, as the client does."""

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool
        self._idle: Any = None

    async def execute_command(self, *arguments: str | bytes | float) -> Any:
        """Send one command; the reply is as the server sends it. Whoever comes meanwhile gets another connection."""
        (reply,) = await self._exchange(arguments)
        return reply

    async def transaction(self, *commands: tuple[str | bytes | float, ...]) -> list[Any]:
        """Run commands at one moment; returns their replies, raises the first that is an error."""
        *_, replies = await self._exchange(("MULTI",), *commands, ("EXEC",))
        honour_cancellation()
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return list(replies)

    async def _exchange(self, *commands: tuple[str | bytes | float, ...]) -> list[Any]:
        connection, self._idle = self._idle, None
        if connection is None:
            connection = await self._pool.get_connection()
        try:
            # The server may have closed it since.
            await self._pool.ensure_connection(connection)
            return await exchange(connection, *commands)
        finally:
            if self._idle is None:
                self._idle = connection
            else:
                await self._pool.release(connection)
