"""Which transactions may be committed in the WAL and invisible to every snapshot, for a moment or longer.

A commit is in the WAL, and may be streamed and confirmed, before it becomes visible: until the standbys answer, where
they are waited for. Tallies that begin at an LSN must know of such commits before it, which no stream sends again:
a recount whose snapshot does not see them would miss them for good.
"""

from typing import Any

from psycopg import AsyncConnection

from cdc_counter.postgres.connection import translated_errors
from cdc_counter.postgres.rendering import block


async def unsettled(connection: AsyncConnection[Any]) -> list[int]:
    """Return the transactions whose commit may end before any LSN fixed until now, and which are not visible yet.

    Among them is every one that is; a session that is idle in its transaction, or waits for a lock, is not.
    """
    with translated_errors("looking at running transactions"):
        cursor = await connection.execute(block("settling", "unsettled"))
        return [int(row[0]) for row in await cursor.fetchall()]
