"""Reads so many rows with psycopg2's replication cursor: DSN SLOT PUBLICATION ROWS. Runs without our packages."""

import contextlib
import json
import sys
import time

import psycopg2
from psycopg2.extras import LogicalReplicationConnection, ReplicationCursor, ReplicationMessage, StopReplication


def main(dsn: str, slot: str, publication: str, wanted: int) -> None:
    """Count inserts of either plugin."""
    rows = 0

    def take(message: ReplicationMessage) -> None:
        nonlocal rows
        payload = message.payload
        if payload[:1] == b"I" or payload[:12] == b'{"action":"I':
            rows += 1
            if rows >= wanted:
                message.cursor.send_feedback(flush_lsn=message.data_start, force=True)
                raise StopReplication

    with psycopg2.connect(dsn) as asking, asking.cursor() as cursor:
        cursor.execute("SELECT plugin FROM pg_replication_slots WHERE slot_name = %s", [slot])
        plugin = cursor.fetchone()[0]
    options = {"format-version": "2"}
    if plugin == "pgoutput":
        options = {"proto_version": "1", "publication_names": publication}
    began = time.perf_counter()
    connection = psycopg2.connect(dsn, connection_factory=LogicalReplicationConnection)
    reading: ReplicationCursor = connection.cursor()
    reading.start_replication(slot_name=slot, options=options, decode=False)
    with contextlib.suppress(StopReplication):
        reading.consume_stream(take)
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - began}))


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
