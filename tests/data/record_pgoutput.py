"""Records what a real walsender sends, byte for byte, as food for the decoder's tests.

By hand, to renew a recording: `python -m tests.data.record_pgoutput DSN > tests/data/pgoutput-18.json`, on an empty
database of a server with wal_level = logical, as superuser. Knows nothing of the decoder that it feeds.
"""

import json
import select
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

FOLDER = Path(__file__).parent
SLOT = "recorder"

_DEADLINE = 30.0
_PER_KIND = 20
"""Messages of one kind kept of sessions that include the large transaction, which has thousands."""

_SET_UP = (
    "CREATE SCHEMA rec",
    "CREATE TYPE rec.mood AS ENUM ('good', 'bad')",
    "CREATE TABLE rec.outbox (part smallint, xid xid8, deltas text) PARTITION BY LIST (part)",
    "CREATE TABLE rec.outbox_0 PARTITION OF rec.outbox FOR VALUES IN (0)",
    "CREATE TABLE rec.outbox_1 PARTITION OF rec.outbox FOR VALUES IN (1)",
    "CREATE TABLE rec.things (id int PRIMARY KEY, name text, mood rec.mood)",
    "ALTER TABLE rec.things REPLICA IDENTITY FULL",
    "CREATE PUBLICATION rec_outbox FOR TABLE rec.outbox WITH (publish = 'insert', publish_via_partition_root = true)",
    "CREATE PUBLICATION rec_leaves FOR TABLE rec.outbox WITH (publish = 'insert')",
    "CREATE PUBLICATION rec_all FOR ALL TABLES",
    "SELECT pg_create_logical_replication_slot('recorder', 'pgoutput')",
    "SELECT pg_replication_origin_create('elsewhere')",
)

_ROW = "INSERT INTO rec.outbox VALUES (%s, pg_current_xact_id(), %s)"

_THINGS = (
    "INSERT INTO rec.things VALUES (1, 'one', 'good'), (2, NULL, NULL), (3, 'three', 'bad')",
    "UPDATE rec.things SET name = 'zwei' WHERE id = 2",
    "UPDATE rec.things SET id = 30 WHERE id = 3",
    "DELETE FROM rec.things WHERE id = 1",
    "SELECT pg_logical_emit_message(true, 'prefix', 'in a transaction')",
    "SELECT pg_logical_emit_message(false, 'prefix', 'beside any transaction')",
    "TRUNCATE rec.things",
    "TRUNCATE rec.outbox",
)


def record(dsn: str) -> dict[str, Any]:
    """Return the server's version and, per session, the CopyData payloads as hex text."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in _SET_UP:
            connection.execute(statement)
        _write(connection)
        target = connection.execute("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn").fetchone()
        version = connection.info.server_version
    assert target is not None
    end = int(target[0])
    sessions = {
        "outbox": _stream(dsn, end, "proto_version '1', publication_names 'rec_outbox'"),
        "leaves": _stream(dsn, end, "proto_version '1', publication_names 'rec_leaves'"),
        "everything": _stream(
            dsn, end, "proto_version '1', publication_names 'rec_all', messages 'true'", keep=_PER_KIND
        ),
        "streamed": _stream(
            dsn, end, "proto_version '2', publication_names 'rec_all', messages 'true', streaming 'on'", keep=_PER_KIND
        ),
    }
    return {"server_version": version, "sessions": sessions}


def _write(connection: psycopg.Connection) -> None:
    long_row = json.dumps([[7, "größe 🐘", f"bucket {n}", n - 40] for n in range(80)], ensure_ascii=False)
    for part, deltas in (
        (0, '[[1,"42","7",1]]'),
        (1, '[[1,"42","7",-1],[2,"-","[null,\\"EUR\\"]",12]]'),
        (0, long_row),
    ):
        connection.execute(_ROW, [part, deltas])
    with connection.transaction():
        connection.execute(_ROW, [1, "[]"])
        connection.execute("INSERT INTO rec.outbox VALUES (1, NULL, NULL)")
        connection.execute(_ROW, [0, '[[3,"22012","division by zero"]]'])
        connection.execute(_ROW, [1, ""])
    connection.execute("ALTER TABLE rec.outbox ADD COLUMN remark text")
    connection.execute("INSERT INTO rec.outbox VALUES (0, pg_current_xact_id(), '[]', 'altered')")
    for statement in _THINGS:
        connection.execute(statement)
    with connection.transaction():
        connection.execute("SELECT pg_replication_origin_session_setup('elsewhere')")
        connection.execute("INSERT INTO rec.things VALUES (5, 'from elsewhere', 'good')")
        connection.execute(_ROW, [1, "[]"])
    connection.execute("SELECT pg_replication_origin_session_reset()")
    # It belongs to the cluster, not to the database.
    connection.execute("SELECT pg_replication_origin_drop('elsewhere')")
    # Larger than logical_decoding_work_mem: sent before its end where streaming is on; once rolled back in part.
    with connection.transaction():
        connection.execute("INSERT INTO rec.things SELECT n, repeat('x', 40), 'good' FROM generate_series(100, 1500) n")
        connection.execute("SAVEPOINT half")
        connection.execute("INSERT INTO rec.things SELECT n, repeat('y', 40), 'bad' FROM generate_series(2000, 3400) n")
        connection.execute("ROLLBACK TO SAVEPOINT half")


def _stream(dsn: str, end: int, options: str, *, keep: int | None = None) -> list[str]:
    """Read the slot from its beginning up to `end`, confirming nothing, so that the next session sees the same."""
    pgconn = _start(dsn, options)
    pgconn.put_copy_data(struct.pack("!cQQQqB", b"r", 0, 0, 0, 0, 1))
    frames: list[str] = []
    kept: dict[bytes, int] = {}
    deadline = time.monotonic() + _DEADLINE
    while True:
        count, data = pgconn.get_copy_data(1)
        if count == 0:
            assert time.monotonic() < deadline, f"no keepalive at {end:X}"
            pgconn.flush()
            select.select([pgconn.socket], [], [], 0.1)
            pgconn.consume_input()
            continue
        assert count > 0, "the stream ended"
        frame = bytes(data)
        kind = frame[:1] if frame[:1] == b"k" else frame[25:26]
        kept[kind] = kept.get(kind, 0) + 1
        if keep is None or kept[kind] <= keep:
            frames.append(frame.hex())
        if kind == b"k" and int.from_bytes(frame[1:9]) >= end:
            pgconn.finish()
            return frames


def _start(dsn: str, options: str) -> pq.abc.PGconn:
    settings = "-c logical_decoding_work_mem=64kB"
    target = make_conninfo(dsn, replication="database", options=settings, client_encoding="UTF8")
    deadline = time.monotonic() + _DEADLINE
    while True:
        pgconn = pq.PGconn.connect(target.encode())
        assert pgconn.status == pq.ConnStatus.OK, pgconn.error_message
        result = pgconn.exec_(f"START_REPLICATION SLOT {SLOT} LOGICAL 0/0 ({options})".encode())
        if result.status == pq.ExecStatus.COPY_BOTH:
            return pgconn
        # The walsender of the session before may still be leaving.
        assert result.error_field(pq.DiagnosticField.SQLSTATE) == b"55006", result.error_message
        assert time.monotonic() < deadline, result.error_message
        pgconn.finish()


def load(version: int) -> dict[str, Any]:
    """Read the recording of a major version that is kept beside this file."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"pgoutput-{version}.json").read_text(encoding="utf-8"))
    return loaded


def main(arguments: Sequence[str]) -> None:
    """Record from the server named by the only argument."""
    sys.stdout.write(json.dumps(record(arguments[0]), indent=0) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
