"""Reads all tallies straight from Redis, and waits until they include a commit."""

import psycopg
import redis

from cdc_counter.core.lsn import Lsn
from tests.rig.eventually import eventually_sync

Counted = dict[tuple[str, str, str], int]


def all_tallies(url: str, prefix: str = "cdc") -> Counted:
    """Return (counter, scope, bucket) -> tally of every hash under the prefix."""
    with redis.Redis.from_url(url, protocol=2) as client:
        found: Counted = {}
        start = f"{prefix}:tally:"
        for key in client.scan_iter(match=f"{start}*", count=1000):
            counter, _, scope = key.decode().removeprefix(start).partition(":")
            for bucket, value in client.hgetall(key).items():
                found[counter, scope, bucket.decode()] = int(value)
        return found


def states(url: str, prefix: str = "cdc") -> dict[str, str]:
    """Return every counter's state."""
    import json  # noqa: PLC0415 - only here

    with redis.Redis.from_url(url, protocol=2) as client:
        return {n.decode(): json.loads(r)["state"] for n, r in client.hgetall(f"{prefix}:counters").items()}


def watermark(url: str, prefix: str = "cdc") -> Lsn:
    """Return the stored watermark."""
    with redis.Redis.from_url(url, protocol=2) as client:
        stored = client.hget(f"{prefix}:meta", "watermark")
        assert stored is not None, "redis has no watermark"
        return Lsn.from_version(stored.decode())


def end_of_wal(dsn: str) -> Lsn:
    """Return a position after every commit so far, flushed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        connection.execute("SELECT pg_logical_emit_message(true, 'test', '')")
        return Lsn.parse(row[0])


def wait_applied(dsn: str, url: str, prefix: str = "cdc", *, deadline: float = 60.0) -> None:
    """Wait until the tallies include every commit so far and every counter is live."""
    goal = end_of_wal(dsn)
    eventually_sync(lambda: watermark(url, prefix) >= goal, f"watermark at {goal}", deadline=deadline)
    eventually_sync(lambda: set(states(url, prefix).values()) == {"live"}, "every counter is live", deadline=deadline)


def differences(tallies: Counted, truth: Counted) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return key -> (tally, truth) where they differ."""
    keys = tallies.keys() | truth.keys()
    return {k: (tallies.get(k, 0), truth.get(k, 0)) for k in keys if tallies.get(k, 0) != truth.get(k, 0)}
