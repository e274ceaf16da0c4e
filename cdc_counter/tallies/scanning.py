"""Lists keys by pattern: every key that was there all the while, or an error.

SCAN promises that of one server. So it goes on only on the connection it began on, and on a cluster it counts only
if no key of ours could have been moved to another node meanwhile.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis

from cdc_counter.tallies.connection import command, translated_errors
from cdc_counter.tallies.lease import leased
from cdc_counter.tallies.whereabouts import FindingPool

_COUNT: Final = 1000
"""Buckets of the server's table looked at in one step: well below a millisecond."""


async def matching_keys(client: Redis, pattern: str) -> AsyncIterator[bytes]:
    """Yield each key once. An error after the last one says that some may be missing: begin again."""
    pool: Any = client.connection_pool
    whereabouts = pool.whereabouts if isinstance(pool, FindingPool) else None
    seen: set[bytes] = set()
    cursor = b"0"
    with translated_errors("listing tallies"):
        async with leased(client) as lease:
            before = await whereabouts.settled(lease) if whereabouts else None
            while True:
                cursor, keys = await command(lease, "SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT)
                for key in keys:
                    if key not in seen:  # SCAN may return a key twice
                        seen.add(key)
                        yield key
                if cursor == b"0":
                    break
            if whereabouts and await whereabouts.settled(lease) != before:
                raise ConnectionError("the slot was moved meanwhile")
