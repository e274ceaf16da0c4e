"""Who changed a number: the transactions in the outbox rows that are still kept."""

from typing import Any

from psycopg import AsyncConnection, sql

from cdc_counter.core.verification import LedgerEntry
from cdc_counter.postgres.connection import translated_errors
from cdc_counter.resources import sql_blocks


async def transactions_of(
    connection: AsyncConnection[Any], schema: str, key: tuple[str, str, str], limit: int
) -> tuple[LedgerEntry, ...]:
    """Return the newest transactions that changed (counter, scope, bucket), newest first."""
    counter, scope, bucket = key
    query = sql.SQL(sql_blocks("replication")["ledger_of_key"]).format(ledger=sql.Identifier(schema, "ledger"))
    with translated_errors("reading the ledger"):
        cursor = await connection.execute(query, {"counter": counter, "scope": scope, "bucket": bucket, "limit": limit})
        return tuple(LedgerEntry(int(xid), int(delta)) for xid, delta in await cursor.fetchall())
