"""The pollers most teams write instead: each takes rows from a table and adds them up in Redis.

by id            remembers the last id it took. Ids are not in commit order: it misses what commits late.
by transaction   remembers the last transaction, and waits for the oldest open one. It misses nothing, and is late.
by deleting      takes whatever it sees, and deletes it. It misses nothing; every change costs a dead row.
"""

import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.synchronize import Event, Semaphore
from types import MappingProxyType
from typing import Any, Final

import psycopg
import redis

BY_ID: Final = "SELECT id > last"
BY_TRANSACTION: Final = "SELECT, oldest open transaction"
BY_DELETING: Final = "DELETE RETURNING"

_PAGE: Final = 10_000
_QUERIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        BY_ID: f"""
            SELECT id, 0, bucket, amount FROM events WHERE id > %(id)s ORDER BY id LIMIT {_PAGE}""",
        BY_TRANSACTION: f"""
            SELECT id, xid::text::bigint, bucket, amount FROM events
             WHERE (xid, id) > (%(xid)s::text::xid8, %(id)s) AND xid < pg_snapshot_xmin(pg_current_snapshot())
             ORDER BY xid, id LIMIT {_PAGE}""",
        BY_DELETING: f"""
            DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id LIMIT {_PAGE} FOR UPDATE SKIP LOCKED)
            RETURNING id, 0, bucket, amount""",
    }
)


class Poller:
    """One of them; `key` is its hash in Redis."""

    def __init__(self, kind: str, dsn: str, redis_url: str, key: str) -> None:
        self._query = _QUERIES[kind]
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._client = redis.Redis.from_url(redis_url)
        self._key = key
        self._last: dict[str, Any] = {"id": 0, "xid": 0}

    def poll(self) -> int:
        """Take a page, add it to Redis together with where it ended, and return how many rows it had."""
        rows = self._connection.execute(self._query, self._last).fetchall()
        if not rows:
            return 0
        sums: Counter[str] = Counter()
        for _, _, bucket, amount in rows:
            sums[bucket] += amount
        self._last = {"id": rows[-1][0], "xid": rows[-1][1]}
        with self._client.pipeline(transaction=True) as pipeline:
            for bucket, amount in sums.items():
                pipeline.hincrby(self._key, str(bucket), amount)
            pipeline.set(f"{self._key}:last", "{xid} {id}".format_map(self._last))
            pipeline.execute()
        return len(rows)

    def drain(self, rows: int) -> float:
        """Take so many rows; returns how many a second."""
        began, taken = time.perf_counter(), 0
        while taken < rows:
            taken += self.poll()
        return taken / (time.perf_counter() - began)

    def close(self) -> None:
        """Close both connections."""
        self._connection.close()
        self._client.close()


def poll_until(stop: Event, ready: Semaphore, kind: str, dsn: str, redis_url: str, key: str, seconds: float) -> None:
    """Poll every so many seconds until told to stop; at once where a page was full. To be run as a process."""
    poller = Poller(kind, dsn, redis_url, key)
    poller.poll()
    ready.release()
    while not stop.is_set():
        if poller.poll() < _PAGE:
            stop.wait(seconds)
    poller.close()
