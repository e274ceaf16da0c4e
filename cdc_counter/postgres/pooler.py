"""Finds out whether a connection leads to a server or to a connection pooler, and to which kind.

A server tells each client its process id when the connection opens (BackendKeyData), for cancelling. A pooler answers
for many servers and makes the number up, so `pg_backend_pid()` says something else. Some proxies do so too and still
keep one server per client, which is harmless. What harms is a server that changes between transactions: settings and
locks of a session get lost or stay with somebody else. That is tried out.
"""

import asyncio
from enum import Enum, auto
from typing import Final

import psycopg
from psycopg import AsyncConnection

_BUSY_SECONDS: Final = 3.0
"""A pooler with one server makes the second transaction wait for the first; a server never does."""


class Path(Enum):
    """What lies between us and the server."""

    DIRECT = auto()
    SESSIONS = auto()
    """A proxy or a pooler that gives each client one server for as long as it stays connected."""
    TRANSACTIONS = auto()
    """A pooler that gives each transaction, or each statement, a server."""


async def find_path(conn: AsyncConnection, backend_pid: int, conninfo: str) -> Path:
    """Return what lies between. `backend_pid` is what the server said; `conninfo` opens one more connection."""
    if conn.info.backend_pid == backend_pid:
        return Path.DIRECT
    async with await AsyncConnection.connect(conninfo, autocommit=True) as other:
        for first_to_end, last_to_end in ((conn, other), (other, conn)):
            # The server given back last is the next one lent, or the first one is: one of the two orders swaps them.
            if await _swapped(first_to_end, last_to_end):
                return Path.TRANSACTIONS
    return Path.SESSIONS


async def _swapped(first_to_end: AsyncConnection, last_to_end: AsyncConnection) -> bool:
    await first_to_end.execute("BEGIN")
    before = await _pid(first_to_end)
    try:
        async with asyncio.timeout(_BUSY_SECONDS):
            await last_to_end.execute("BEGIN")
    except (TimeoutError, psycopg.OperationalError):
        return True
    finally:
        await first_to_end.execute("COMMIT")
    await last_to_end.execute("COMMIT")
    return await _pid(first_to_end) != before


async def _pid(conn: AsyncConnection) -> int:
    row = await (await conn.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return int(row[0])
