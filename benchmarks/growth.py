"""How it grows: with keys, counters, rows, a backlog after an hour down, and an outbox beside an open transaction."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg

from benchmarks.bench import Bench
from benchmarks.chart import Chart, Lines
from benchmarks.figures import OURS, Figures
from benchmarks.stage import Stage, memory, server_cpu_seconds
from benchmarks.targets import Target
from cdc_counter import wiring
from cdc_counter.config import load_config
from cdc_counter.core.events import InitEvent
from tests.rig.daemon import Daemon, command

TITLE: Final = "How it grows"

GROUP_BY: Final = "GROUP BY"
TALLY_BYTES: Final = "Redis memory per tally"
MEMORY: Final = "most memory of the daemon"
SEED: Final = "count existing rows"
VERIFY: Final = "one verification"

TARGETS: Final = (Target(SEED, to=GROUP_BY, at_most=1.2),)

_MIB: Final = 2**20

_HOUR: Final = 3_600
_COMMITS_A_SECOND: Final = 300

_EVENTS: Final = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, scope int NOT NULL, bucket int NOT NULL);
"""
_BY_KEY: Final = """
[[counter]]
name = "by_key"
table = "events"
scope = "scope"
by = "bucket"
"""


def run(bench: Bench) -> None:
    """Measure each way to grow on servers of its own."""
    for part, measure in _PARTS.items():
        if bench.wants(part):
            with Stage(bench.folder) as stage:
                measure(bench, stage)


def _keys(bench: Bench, stage: Stage) -> None:
    """One statement, and so one transaction, that makes so many keys: 1,000 in each scope."""
    stage.sql(_EVENTS)
    stage.configure(_BY_KEY)
    stage.run("init")
    sizes = [10**power for power in range(3, 8) if 10**power <= bench.sized(10_000_000, 10_000)]
    for size in bench.turns("keys of one transaction", list(map(str, sizes)), rounds=1):
        keys = int(size)
        stage.sql("TRUNCATE events")
        with _running(stage) as daemon, stage.client() as client:
            stage.wait_applied()
            stage.sql(
                "INSERT INTO events (scope, bucket) SELECT i / 1000, i %% 1000 FROM generate_series(0, %s - 1) AS i",
                keys,
            )
            began = time.monotonic()
            stage.wait_applied(300 + keys / 20_000)
            bench.record("keys applied", OURS, "keys/s", keys / (time.monotonic() - began), keys=keys)
            bench.record(MEMORY, OURS, "MiB", memory(daemon.process.pid, "VmHWM") / _MIB, keys=keys)
            hashes = list(client.scan_iter("cdc:tally:by_key:*", count=1_000))
            found = sum(map(client.hlen, hashes))
            if found != keys:
                raise AssertionError(f"Redis holds {found} tallies of {keys}")
            bench.record(TALLY_BYTES, OURS, "bytes", sum(map(client.memory_usage, hashes)) / keys, keys=keys)


def _counters(bench: Bench, stage: Stage) -> None:
    """More counters on one table; every inserted row changes all of them."""
    stage.sql(_EVENTS)
    statements = bench.sized(2_000, 200)
    numbers = ["1", "10"] if bench.quick else ["1", "10", "50", "200"]
    for number in bench.turns("counters on one table", numbers, rounds=1):
        counters = int(number)
        stage.configure("".join(_BY_KEY.replace("by_key", f"by_key_{each}") for each in range(counters)))
        stage.run("init")
        with _running(stage) as daemon:
            stage.wait_applied()
            cpu, began = server_cpu_seconds(stage.postgres.pid), time.monotonic()
            _insert(stage, statements)
            took = time.monotonic() - began
            stage.wait_applied()
            cpu = server_cpu_seconds(stage.postgres.pid) - cpu
            microseconds = 1e6 / statements
            bench.record("insert of one row", OURS, "us", took * microseconds, counters=counters)
            bench.record("CPU of the database per row", OURS, "us", cpu * microseconds, counters=counters)
            bench.record(MEMORY, OURS, "MiB", memory(daemon.process.pid, "VmHWM") / _MIB, counters=counters)


def _hour_down(bench: Bench, stage: Stage) -> None:
    """As many one-row transactions as an hour has; then the daemon starts."""
    stage.sql(_EVENTS)
    stage.configure(_BY_KEY)
    stage.run("init")
    commits = bench.sized(_HOUR * _COMMITS_A_SECOND, 20_000)
    for _ in bench.turns(f"a backlog of {commits:,} commits", [OURS], rounds=1):
        _write(stage, commits)
        held = stage.sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots")
        bench.record("WAL kept for the backlog", OURS, "MiB", held[0][0] / _MIB, commits=commits)
        daemon = stage.daemon("--role", "consumer")
        with daemon:
            began = time.monotonic()
            daemon.start()
            stage.wait_applied(deadline=600)
            seconds = time.monotonic() - began
            bench.record(
                "catching up, from the start of the process", OURS, "commits/s", commits / seconds, commits=commits
            )
            bench.record(MEMORY, OURS, "MiB", memory(daemon.process.pid, "VmHWM") / _MIB, commits=commits)


def _rows(bench: Bench, stage: Stage) -> None:
    """Count a large table for the first time, and verify it, beside the bare recount."""
    rows = bench.sized(10_000_000, 200_000)
    stage.sql(_EVENTS)
    stage.sql("INSERT INTO events (scope, bucket) SELECT i %% 100, i %% 1700 FROM generate_series(1, %s) AS i", rows)
    stage.sql("VACUUM (ANALYZE) events")
    stage.configure(_BY_KEY)
    recount = "SELECT scope::text, bucket::text, count(*) FROM events GROUP BY scope, bucket"
    for peer in bench.turns(f"{SEED}, {rows:,} rows", [OURS, GROUP_BY]):
        if peer == GROUP_BY:
            began = time.monotonic()
            stage.sql(recount)
            bench.record(SEED, peer, "s", time.monotonic() - began, rows=rows)
        else:
            bench.record(SEED, peer, "s", _seed(stage), rows=rows)
    with _running(stage):
        for peer in bench.turns(f"{VERIFY}, {rows:,} rows", [OURS, GROUP_BY]):
            cpu, began = server_cpu_seconds(stage.postgres.pid), time.monotonic()
            seconds = _verify(stage) if peer == OURS else 0.0
            if peer == GROUP_BY:
                stage.sql(recount)
                seconds = time.monotonic() - began
            cpu = server_cpu_seconds(stage.postgres.pid) - cpu
            bench.record(VERIFY, peer, "s", seconds, rows=rows)
            bench.record(f"{VERIFY}, CPU of the database", peer, "s", cpu, rows=rows)


def _seed(stage: Stage) -> float:
    """Install from nothing; returns the seconds from the snapshot to the counter being live."""
    moments: list[float] = []

    def note(event: InitEvent) -> None:
        if event.title == "seeding by_key":
            moments.append(time.monotonic())

    config = load_config(stage.config, os.environ)
    asyncio.run(wiring.init(config, note, reseed=True))
    return moments[-1] - moments[0]


def _verify(stage: Stage) -> float:
    done = command("verify", "--json", config=stage.config)
    told = json.loads(done.stdout)["counters"][0]
    if told["verdict"] != "equal":
        raise AssertionError(f"verify says {told}")
    return float(told["seconds"])


def _open_transaction(bench: Bench, stage: Stage) -> None:
    """As many commits as an hour has while one transaction stays open: the inserts must not become slower."""
    stage.sql(_EVENTS)
    stage.configure(_BY_KEY)
    stage.run("init")
    commits = bench.sized(_HOUR * _COMMITS_A_SECOND, 20_000)
    tenth = commits // 10
    with _running(stage), psycopg.connect(stage.dsn) as open_transaction:
        open_transaction.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        open_transaction.execute("CREATE TABLE held (note text)")
        for part in bench.turns("beside an open transaction", ["first tenth", "the rest", "last tenth"], rounds=1):
            many = commits - 2 * tenth if part == "the rest" else tenth
            began = time.monotonic()
            _write(stage, many)
            if part != "the rest":
                seconds = time.monotonic() - began
                bench.record(f"insert of one row, {part}", OURS, "us", 1e6 * seconds / many, commits=commits)
        stage.wait_applied()
        size = stage.sql("SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('cdc_counter.outbox')")[0][0]
        bench.record("outbox per commit", OURS, "bytes", float(size) / commits, commits=commits)


@contextmanager
def _running(stage: Stage) -> Iterator[Daemon]:
    with stage.daemon() as daemon:
        yield daemon.start().wait_ready()


def _insert(stage: Stage, statements: int) -> None:
    """Insert row by row from a client."""
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for number in range(statements):
            connection.execute("INSERT INTO events (scope, bucket) VALUES (%s, %s)", [number % 100, number % 1000])


def _write(stage: Stage, commits: int) -> None:
    """Commit row by row inside the server, from two sessions."""

    def commit(many: int) -> None:
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(
                f"""DO $$ BEGIN FOR i IN 1..{many} LOOP
                        INSERT INTO events (scope, bucket) VALUES (i % 100, i % 1000); COMMIT;
                    END LOOP; END $$"""
            )

    writers = [threading.Thread(target=commit, args=[commits // 2]) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


_PARTS: Final = {
    "keys": _keys,
    "counters": _counters,
    "an hour down": _hour_down,
    "rows": _rows,
    "open transaction": _open_transaction,
}


def charts(figures: Figures) -> Sequence[Chart]:
    """Draw what grows with the keys."""
    found = figures.select(MEMORY)
    points = [(float(each.conditions["keys"]), each.spread.median) for each in found if "keys" in each.conditions]
    if not points:
        return []
    bars = Lines("memory", "One transaction of so many keys", "keys", "MiB resident at the most", {"daemon": points})
    return [bars]
