"""Measures what adding a counter to a large table does: `python -m tests.acceptance.measure_added_counter [ROWS]`.

A table of ROWS rows (10,000,000 by default), writers on it all the time, a daemon that keeps other counters. A probe
commits a row and waits until Redis shows it: before, while a counter is added by `apply`, and after. The added counter
is verified as soon as it is live. Prints one JSON object; asserts nothing about time.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import redis

from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.embedded.child import free_port
from tests.rig.daemon import PROGRAM, Daemon

SCHEMA = """
CREATE TABLE conversations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id int NOT NULL, channel_id int NOT NULL, status text NOT NULL DEFAULT 'open', note text
);
CREATE TABLE probes (name text NOT NULL);
"""

FILL = """
INSERT INTO conversations (account_id, channel_id, status, note)
SELECT i %% 5000, i %% 17, CASE i %% 4 WHEN 0 THEN 'open' ELSE 'closed' END, repeat('x', 40)
  FROM generate_series(1, %s) AS i
"""

OLD = """
[[counter]]
name = "probes"
table = "probes"
by = "name"
[[counter]]
name = "by_status"
table = "conversations"
by = "status"
"""

NEW = """
[[counter]]
name = "open_by_channel"
table = "conversations"
where = "status = 'open'"
scope = "account_id"
by = "channel_id"
"""

SECONDS = 30.0
WRITES_A_SECOND = 400


def write(dsn: str, rows: int, number: int, stop: threading.Event, committed: list[int]) -> None:
    """Write at a fixed rate: what is late is done at once."""
    chance = random.Random(number)
    begun = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not stop.is_set():
            some = chance.randint(1, rows)
            match committed[number] % 4:
                case 0:
                    connection.execute(
                        "INSERT INTO conversations (account_id, channel_id) VALUES (%s, %s)", [some % 5000, some % 17]
                    )
                case 1:
                    connection.execute("DELETE FROM conversations WHERE id = %s", [some])
                case _:
                    status = chance.choice(["open", "closed"])
                    connection.execute("UPDATE conversations SET status = %s WHERE id = %s", [status, some])
            committed[number] += 1
            ahead = begun + committed[number] * 4 / WRITES_A_SECOND - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)


class Probe:
    """Commits rows of one name; a latency is from the commit's return to Redis showing the number."""

    def __init__(self, dsn: str, redis_url: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._client = redis.Redis.from_url(redis_url)
        self._count = 0

    def run(self, over: threading.Event) -> list[float]:
        """Probe until `over`; returns seconds."""
        latencies = []
        while not over.wait(0.02):
            self._connection.execute("INSERT INTO probes VALUES ('probe')")
            self._count += 1
            returned = time.perf_counter()
            while int(self._client.hget("cdc:tally:probes:-", "probe") or 0) < self._count:
                pass
            latencies.append(time.perf_counter() - returned)
        return latencies


def figures(latencies: list[float]) -> dict[str, float]:
    """Return milliseconds."""
    cuts = statistics.quantiles(latencies, n=100)
    shown = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(latencies)}
    return {"samples": len(latencies)} | {name: round(1000 * value, 2) for name, value in shown.items()}


def timed(seconds: float) -> threading.Event:
    """Return an event that comes by itself."""
    over = threading.Event()
    threading.Timer(seconds, over.set).start()
    return over


def main(rows: int) -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgresServer(settings={"shared_buffers": "1GB", "max_wal_size": "4GB"}) as postgres,
        RedisServer() as redis_server,
    ):
        dsn, url = postgres.dsn(), redis_server.url
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SCHEMA)
            connection.execute(FILL, [rows])
            connection.execute("VACUUM ANALYZE")
        config = Path(folder) / "c.toml"
        base = f'[postgres]\ndsn = "{dsn}"\n[redis]\nurl = "{url}"\n[gateway]\nport = {free_port()}\n'
        config.write_text(base + OLD, encoding="utf-8")
        subprocess.run([PROGRAM, "init", "--config", str(config)], check=True, capture_output=True)
        with Daemon(config, Path(folder) / "daemon.log", port=int(base.rsplit(" ", 1)[1])) as daemon:
            daemon.start().wait_ready()
            print(json.dumps(measured(dsn, url, rows, config), indent=2))  # noqa: T201 - what it is for


def measured(dsn: str, url: str, rows: int, config: Path) -> dict[str, object]:
    """Return every figure."""
    stop = threading.Event()
    committed = [0, 0, 0, 0]
    writers = [threading.Thread(target=write, args=[dsn, rows, n, stop, committed]) for n in range(4)]
    for writer in writers:
        writer.start()
    probe = Probe(dsn, url)
    before = probe.run(timed(SECONDS))
    config.write_text(config.read_text(encoding="utf-8") + NEW, encoding="utf-8")
    during: list[float] = []
    live = threading.Event()
    probing = threading.Thread(target=lambda: during.extend(probe.run(live)))
    probing.start()
    begun = time.monotonic()
    subprocess.run([PROGRAM, "apply", "--config", str(config)], check=True, capture_output=True)
    added = time.monotonic() - begun
    live.set()
    probing.join()
    verified = [
        subprocess.run(
            [PROGRAM, "verify", "--json", "--counter", "open_by_channel", "--config", str(config)],
            check=False,
            capture_output=True,
        )
        for _ in range(3)
    ]
    after = probe.run(timed(SECONDS))
    written = sum(committed)
    stop.set()
    for writer in writers:
        writer.join()
    counters = [json.loads(done.stdout)["counters"][0] for done in verified]
    return {
        "rows": rows,
        "writes_a_second": round(written / (time.monotonic() - begun + SECONDS), 1),
        "seconds_until_live": round(added, 2),
        "verified": [{key: one[key] for key in ("verdict", "keys", "drifted", "seconds")} for one in counters],
        "latency_of_another_counter_ms": {
            "before": figures(before),
            "while_added": figures(during),
            "after": figures(after),
        },
    }


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
