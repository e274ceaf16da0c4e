"""Another way to the truth, which shares nothing with how verification works: a temporary slot and its snapshot.

A slot is created with an exported snapshot, the tables are counted by hand in that snapshot, and the slot itself tells
which deltas came after it. So at any moment of full load: truth in the snapshot, plus every delta that the slot decodes
up to the watermark, is what the tallies must be. Unfit for production, as it waits for every running transaction.
"""

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import redis
from psycopg import sql

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.snapshot import Snapshot
from tests.acceptance.workload import HONEST, Counted
from tests.rig.eventually import eventually_sync
from tests.rig.tallies import watermark

_SLOT = "second_oracle"
_DELTAS = re.compile(r"deltas\[text\]:'((?:[^']|'')*)'")


@dataclass(frozen=True, slots=True)
class Judgement:
    """Key -> (tally, expected) where they differ. `later`: transactions after the snapshot that the tallies hold."""

    wrong: dict[tuple[str, str, str], tuple[int, int]]
    keys: int
    later: int


def judge(dsn: str, redis_url: str) -> Judgement:
    """Compare every tally at its watermark with what it must be there."""
    with psycopg.connect(dsn, autocommit=True, replication="database") as walsender:
        walsender.pgconn.exec_(b"SET lock_timeout = '1s'")
        while (counted := _counted(dsn, walsender)) is None:
            continue
        start, expected = counted
        eventually_sync(lambda: watermark(redis_url) >= start, f"watermark at {start}")
        tallies, until, live = _tallies(redis_url)
        later = _deltas_until(walsender, until)
    for entries in later:
        for identifier, *entry in entries:
            match entry:
                case [scope, bucket, delta]:
                    key = (live.get(identifier, ""), scope, bucket)
                    expected[key] = expected.get(key, 0) + int(delta)
                case _:
                    # A TRUNCATE that can't be counted: of this counter nothing is claimed.
                    live.pop(identifier, None)
    expected = {key: value for key, value in expected.items() if key[0] in live.values()}
    tallies = {key: value for key, value in tallies.items() if key[0] in live.values()}
    wrong = {
        key: (tallies.get(key, 0), expected.get(key, 0))
        for key in tallies.keys() | expected.keys()
        if tallies.get(key, 0) != expected.get(key, 0)
    }
    return Judgement(wrong, len(expected), len(later))


def _counted(dsn: str, walsender: psycopg.Connection[Any]) -> tuple[Lsn, Counted] | None:
    """Return the consistent point of a new slot and what is counted by hand in its snapshot; None: try again."""
    found: Counted = {}
    with psycopg.connect(dsn) as connection, psycopg.connect(dsn, autocommit=True) as watcher:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        # TRUNCATE is not MVCC-safe: one that came between would empty the tables in a snapshot that is older. The slot
        # may have to wait for one that waits for this lock; hence its timeout.
        connection.execute("LOCK TABLE conversations, tickets, notes, note_links IN ACCESS SHARE MODE")
        # A command of the replication protocol: PQexec, for it knows no prepared statements.
        result = walsender.pgconn.exec_(
            f"CREATE_REPLICATION_SLOT {_SLOT} TEMPORARY LOGICAL test_decoding EXPORT_SNAPSHOT".encode()
        )
        if result.ntuples != 1:
            assert b"lock timeout" in result.error_message, result.error_message
            return None
        point, snapshot = result.get_value(0, 1) or b"", result.get_value(0, 2) or b""
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot.decode())))
        exported = _snapshot(connection)
        # A transaction that was decoded as committed may not be seen as such for a moment, and whoever reads a table in
        # that moment makes PostgreSQL forget it for good.
        eventually_sync(lambda: not _unfinished(exported, _snapshot(watcher)), "what the snapshot sees is finished")
        for counter, query in HONEST.items():
            for scope, bucket, value in connection.execute(query.encode()):
                if value:
                    found[counter, scope, bucket] = int(value)
    return Lsn.parse(point.decode()), found


def _snapshot(connection: psycopg.Connection[Any]) -> Snapshot:
    row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
    assert row is not None
    return Snapshot.parse(row[0])


def _unfinished(exported: Snapshot, now: Snapshot) -> bool:
    """Say whether something that the exported snapshot sees is still in progress."""
    running = {xid for xid in now.running if exported.sees(xid)}
    return bool(running) or any(exported.sees(xid) for xid in range(now.xmax, exported.xmax))


def _tallies(redis_url: str) -> tuple[Counted, Lsn, dict[int, str]]:
    """Return all tallies, the watermark they are true for and the names of live counters, read in one step."""
    script = """
        local found = {}
        for _, key in ipairs(redis.call('KEYS', 'cdc:tally:*')) do
            found[#found + 1] = {key, redis.call('HGETALL', key)}
        end
        return {redis.call('HGET', 'cdc:meta', 'watermark'), found, redis.call('HVALS', 'cdc:counters')}
    """
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        until, hashes, records = client.eval(script, 0)
    found: Counted = {}
    for key, flat in hashes:
        counter, _, scope = key.decode().removeprefix("cdc:tally:").partition(":")
        for bucket, value in zip(flat[::2], flat[1::2], strict=True):
            found[counter, scope, bucket.decode()] = int(value)
    known = [json.loads(record) for record in records]
    live = {record["id"]: record["name"] for record in known if record["state"] == "live"}
    return found, Lsn.from_version(until.decode()), live


def _deltas_until(walsender: psycopg.Connection[Any], until: Lsn) -> list[list[list[Any]]]:
    """Return the deltas of each transaction after the snapshot that ends at or before `until`."""
    found: list[list[list[Any]]] = []
    open_entries: list[list[Any]] = []
    query = f"SELECT lsn, data FROM pg_logical_slot_get_changes('{_SLOT}', NULL, NULL)"
    result = walsender.pgconn.exec_(query.encode())
    assert result.nfields == 2, result.error_message
    for row in range(result.ntuples):
        lsn, data = (result.get_value(row, column) or b"" for column in (0, 1))
        text = data.decode()
        if text.startswith("BEGIN"):
            open_entries = []
        elif text.startswith("COMMIT"):
            if Lsn.parse(lsn.decode()) <= until and open_entries:
                found.append(open_entries)
        elif text.startswith("table cdc_counter.outbox") and (match := _DELTAS.search(text)):
            entries = json.loads(match[1].replace("''", "'"))
            open_entries += entries
    return found


def wait_for_traffic(seconds: float) -> None:
    """Let the writers write between two judgements."""
    time.sleep(seconds)
