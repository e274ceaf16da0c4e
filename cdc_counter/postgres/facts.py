"""Asks a server what the start-up decision needs, on the connection that is going to stream.

Facts only; what follows from them is decided in the core.
"""

from typing import Any

from psycopg import AsyncConnection, sql

from cdc_counter.core.lifecycle import PublicationFault, ServerFacts, SlotFacts
from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import ProtocolError
from cdc_counter.resources import sql_blocks

Row = dict[str, Any]


async def server_facts(
    connection: AsyncConnection[Row], slot: str, publication: str, outbox: str, *, stored_timeline: int | None
) -> ServerFacts:
    """Return identity, WAL end, slot and publication. `connection` is in replication mode and returns dicts."""
    blocks = sql_blocks("replication")
    # Whether it is a standby comes first: promoted in between it is taken for one, and asked again. The other way round
    # a primary would seem to be on the timeline that it has left.
    database = await _one(connection, blocks["database"])
    system = await _one(connection, "IDENTIFY_SYSTEM")
    slot_row = await _maybe(connection, blocks["slot"], {"slot": slot})
    publication_row = await _maybe(
        connection, with_publication_mark(blocks["publication"]), {"publication": publication, "outbox": outbox}
    )
    timeline = int(system["timeline"])
    return ServerFacts(
        system_identifier=str(system["systemid"]),
        timeline=timeline,
        database_oid=int(database["oid"]),
        flush_lsn=Lsn.parse(system["xlogpos"]),
        slot=None if slot_row is None else slot_facts(slot_row["slot"]),
        publication=publication_fault(publication_row),
        next_xid=int(database["next_xid"]),
        timeline_switch=await _timeline_switch(connection, timeline, stored_timeline),
        in_recovery=bool(database["in_recovery"]),
        publication_mark="" if publication_row is None else str(publication_row["mark"]),
    )


def with_publication_mark(block: str) -> sql.Composed:
    """Return a block of `replication.sql` with the mark in it: whoever compares marks must ask for the same."""
    return sql.SQL(block).format(publication_mark=sql.SQL(sql_blocks("replication")["publication_mark"]))


def slot_facts(row: Row) -> SlotFacts:
    """Read a row of pg_replication_slots, of any version."""
    confirmed = row["confirmed_flush_lsn"]
    lost = row.get("invalidation_reason")
    if lost is None and (row.get("wal_status") == "lost" or row.get("conflicting")):
        lost = f"wal_status {row.get('wal_status')}"
    return SlotFacts(
        plugin=str(row["plugin"]),
        database_oid=int(row["datoid"] or 0),
        confirmed_flush=None if confirmed is None else Lsn.parse(confirmed),
        active_pid=row["active_pid"],
        lost=lost,
        retained=row["retained"],
        inactive_seconds=float(row["inactive_seconds"] or 0),
    )


def publication_fault(row: Row | None) -> PublicationFault | None:
    """Judge a publication's row; None when it sends every outbox row and nothing else."""
    if row is None:
        return PublicationFault.MISSING
    judged = {
        PublicationFault.NOTHING_TO_PUBLISH: not row["outbox_exists"],
        PublicationFault.NO_OUTBOX: not row["has_outbox"],
        PublicationFault.NO_INSERT: not row["pubinsert"],
        PublicationFault.MORE_THAN_INSERT: row["pubupdate"] or row["pubdelete"] or row["pubtruncate"],
        PublicationFault.NOT_VIA_ROOT: not row["pubviaroot"],
        PublicationFault.FILTERED: row["filtered"],
        PublicationFault.OTHER_TABLES: row["puballtables"] or row["others"] > 0,
    }
    return next((fault for fault, found in judged.items() if found), None)


async def _timeline_switch(connection: AsyncConnection[Row], timeline: int, stored: int | None) -> Lsn | None:
    """Return where `stored` was left on the way to the current timeline; None when it was not, or is the current."""
    if stored is None or stored >= timeline:
        return None
    history = (await _one(connection, f"TIMELINE_HISTORY {timeline}"))["content"]
    text = history.decode() if isinstance(history, bytes) else str(history)
    for line in text.splitlines():
        number, _, rest = line.strip().partition("\t")
        if number == str(stored):
            return Lsn.parse(rest.partition("\t")[0])
    return None


async def _one(connection: AsyncConnection[Row], statement: str) -> Row:
    row = await _maybe(connection, statement, None)
    if row is None:
        raise ProtocolError(f"no row for {statement.split(maxsplit=1)[0]}")
    return row


async def _maybe(
    connection: AsyncConnection[Row], statement: str | sql.Composed, parameters: dict[str, str] | None
) -> Row | None:
    cursor = await connection.execute(sql.SQL(statement) if isinstance(statement, str) else statement, parameters)
    return await cursor.fetchone()
