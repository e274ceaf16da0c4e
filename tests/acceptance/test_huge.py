"""One statement that changes hundreds of thousands of keys, and a daemon that is killed in the middle of it."""

import re
from collections.abc import Callable
from pathlib import Path

import redis

from cdc_counter.embedded import RedisServer
from tests.fault.deployment import Deployment
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.tallies import wait_applied

KEYS = 300_000
"""Thirty outbox rows and sixty script calls; a million behave the same and take three times as long."""

SCOPES = KEYS // 1_000
COUNTERS = """
[[counter]]
name = "by_key"
table = "conversations"
where = "status = 'huge'"
scope = "account_id"
by = "channel_id"
"""
MOST_MEMORY = 250 * 1024
"""KiB. Held whole as Python objects, several times these keys would take more than that."""


def peak_memory(daemon: Daemon) -> int:
    """Return the most memory the process ever had resident, in KiB."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


def slowest_script(client: redis.Redis) -> int:
    """Return the longest script call in microseconds."""
    entries = client.slowlog_get(128)
    return max((entry["duration"] for entry in entries if entry["command"].startswith(b"EVALSHA")), default=0)


def test_a_huge_statement_is_applied_once_through_kills(
    database18: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with (
        RedisServer(settings={"slowlog-log-slower-than": "1000"}) as server,
        Deployment(database18, server.url, tmp_path) as deployment,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        deployment.config = deployment.write_config("huge", counters=COUNTERS)
        deployment.init()
        daemon = deployment.daemon("huge").start().wait_ready()
        deployment.sql(
            "INSERT INTO conversations (account_id, channel_id, status)"
            " SELECT i / 1000, i %% 1000, 'huge' FROM generate_series(0, %s - 1) AS i",
            KEYS,
        )

        def wait_for_scopes(count: float) -> None:
            # All keys of this Redis but a handful are tallies.
            eventually_sync(lambda: int(client.dbsize()) > count, f"{count:.0f} scopes are applied", deadline=60)

        peaks, parts = [], []
        for share in (0.3, 0.6):
            wait_for_scopes(share * SCOPES)
            peaks.append(peak_memory(daemon))
            daemon.kill()
            parts.append(client.hget("cdc:meta", "partial"))
            daemon.start()
        assert b"" not in parts, "it was not killed in the middle of the transaction"
        wait_applied(deployment.dsn, server.url, deadline=90)
        peaks.append(peak_memory(daemon))
        wrong = [
            key
            for key in client.scan_iter(match="cdc:tally:*", count=1000)
            if client.hgetall(key) != {b"%d" % bucket: b"1" for bucket in range(1000)}
        ]
        assert wrong == []
        assert len(list(client.scan_iter(match="cdc:tally:*", count=1000))) == SCOPES
        assert max(peaks) < MOST_MEMORY
        assert daemon.terminate() == 0
        record_property("kills in the middle", len(parts))
        record_property("most memory, KiB", max(peaks))
        record_property("longest script call, microseconds", slowest_script(client))
