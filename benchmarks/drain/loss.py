"""What readers lose while writers write: pollers and our stream side by side, on the same changes.

Writers commit rows at a fixed rate. Every reader adds them up in Redis; what is missing there in the end was lost.
Probes, rows with a bucket of their own, tell how long after its commit a row shows.
"""

import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from types import MappingProxyType
from typing import Any, Final

import psycopg
import redis

from benchmarks.bench import Bench
from benchmarks.drain.polling import BY_DELETING, BY_ID, BY_TRANSACTION, poll_until
from benchmarks.figures import OURS, Condition
from benchmarks.stage import Stage

SCHEMA: Final = """
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, bucket text NOT NULL, amount int NOT NULL DEFAULT 1,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX ON events (xid, id);
CREATE TABLE queue (id bigint PRIMARY KEY, bucket text NOT NULL, amount int NOT NULL);
CREATE TABLE unrelated (note text);
"""
_COUNTER: Final = """
[[counter]]
name = "events"
table = "events"
by = "bucket"
"""
_WRITE: Final = """
WITH one AS (INSERT INTO events (bucket) VALUES ({bucket}) RETURNING id, bucket, amount)
INSERT INTO queue SELECT id, bucket, amount FROM one;
"""
_SHORT: Final = "\\set number random(1, 100)\n" + _WRITE.format(bucket="'b' || :number").replace("\n", " ").strip()
_HELD: Final = f"BEGIN;\n{_SHORT}\n\\sleep 500 ms\nCOMMIT;"
_RATE: Final = 500
_WRITERS: Final = 40
"""Enough for 25 of 500 transactions a second to stay open for half a second each."""

_PROBE_SECONDS: Final = 0.05
_LATE: Final = 8.0
"""Seconds after which a probe that does not show is lost: far more than any reader was ever late."""

READERS: Final[Mapping[str, tuple[str, float]]] = MappingProxyType(
    {
        f"{BY_ID}, every 100 ms": (BY_ID, 0.1),
        f"{BY_ID}, every 10 ms": (BY_ID, 0.01),
        f"{BY_TRANSACTION}, every 10 ms": (BY_TRANSACTION, 0.01),
        f"{BY_DELETING}, every 100 ms": (BY_DELETING, 0.1),
    }
)

LOST: Final = "rows lost"
MIDDLE: Final = "commit to Redis, p50"
LATE: Final = "commit to Redis, p99"


@dataclass(frozen=True, slots=True)
class Weather:
    """What the writers do: `held` of a hundred transactions stay open; so does another one, `unrelated` seconds."""

    name: str
    held: int = 0
    unrelated: float = 0.0


WEATHERS: Final = (
    Weather("short transactions"),
    Weather("1 in 20 stays open for 0.5 s", held=5),
    Weather("beside an unrelated transaction of 4 s", unrelated=4.0),
)


@dataclass(slots=True)
class Probes:
    """When each probe was committed and when each reader showed it, in seconds of one clock."""

    committed: dict[str, float] = field(default_factory=dict)
    seen: dict[str, dict[str, float]] = field(default_factory=dict)

    def latencies(self, reader: str) -> list[float]:
        """Return milliseconds of those that showed."""
        return [1_000 * (at - self.committed[probe]) for probe, at in self.seen[reader].items()]


def measure_losses(bench: Bench, stage: Stage) -> None:
    """Measure every reader under every weather, all of them at the same time."""
    seconds = 4 if bench.quick else 12
    stage.sql(SCHEMA)
    stage.configure(_COUNTER)
    stage.run("init")
    with stage.daemon() as daemon:
        daemon.start().wait_ready()
        for name in bench.turns("losses", [weather.name for weather in WEATHERS], rounds=1 if bench.quick else None):
            weather = next(each for each in WEATHERS if each.name == name)
            stage.sql("TRUNCATE events, queue")
            stage.wait_applied()
            _measure(bench, stage, weather, seconds)


def _measure(bench: Bench, stage: Stage, weather: Weather, seconds: float) -> None:
    keys = {OURS: "cdc:tally:events:-", **{reader: f"poll:{reader}" for reader in READERS}}
    with stage.client() as client, _pollers(stage, keys), psycopg.connect(stage.dsn, autocommit=True) as connection:
        for reader in READERS:
            client.delete(keys[reader], f"{keys[reader]}:last")
        with _writers(bench, stage, weather, seconds):
            probes = _probe(client, connection, keys, seconds)
        stage.wait_applied()
        truth = dict(stage.sql("SELECT bucket, count(*) FROM events GROUP BY bucket"))
        written = sum(truth.values())
        _settle(client, keys, written)
        conditions: dict[str, Condition] = {"writers": weather.name, "commits_per_second": _RATE}
        for reader, key in keys.items():
            found = {bucket.decode(): int(value) for bucket, value in client.hgetall(key).items()}
            lost = sum(truth[bucket] - found.get(bucket, 0) for bucket in truth)
            cuts = statistics.quantiles(probes.latencies(reader), n=100)
            bench.record(LOST, reader, "%", 100 * lost / written, **conditions)
            bench.record(MIDDLE, reader, "ms", cuts[49], **conditions)
            bench.record(LATE, reader, "ms", cuts[98], **conditions)
            if reader == OURS and found != truth:
                raise AssertionError(f"our tallies are not the table's: {lost} of {written} rows lost")


def _probe(
    client: "redis.Redis", connection: "psycopg.Connection[Any]", keys: Mapping[str, str], seconds: float
) -> Probes:
    """Commit a probe now and then, and look all the time at which reader shows which."""
    probes = Probes(seen={reader: {} for reader in keys})
    waiting: dict[str, set[str]] = {reader: set() for reader in keys}
    began = time.monotonic()
    while (now := time.monotonic()) < began + seconds or (any(waiting.values()) and now < began + seconds + _LATE):
        if len(probes.committed) * _PROBE_SECONDS < now - began < seconds:
            probe = f"p{len(probes.committed)}"
            connection.execute(_WRITE.format(bucket=f"'{probe}'"))
            probes.committed[probe] = time.monotonic()
            for missing in waiting.values():
                missing.add(probe)
        _look(client, keys, waiting, probes)
        for missing in waiting.values():
            missing -= {probe for probe in missing if time.monotonic() > probes.committed[probe] + _LATE}
        time.sleep(0.001)
    return probes


def _look(client: "redis.Redis", keys: Mapping[str, str], waiting: Mapping[str, set[str]], probes: Probes) -> None:
    asked = [(reader, sorted(missing)) for reader, missing in waiting.items() if missing]
    with client.pipeline(transaction=False) as pipeline:
        for reader, missing in asked:
            pipeline.hmget(keys[reader], missing)
        answers = pipeline.execute()
    now = time.monotonic()
    for (reader, missing), values in zip(asked, answers, strict=True):
        shown = {probe for probe, value in zip(missing, values, strict=True) if value is not None}
        waiting[reader].difference_update(shown)
        probes.seen[reader].update(dict.fromkeys(shown, now))


def _settle(client: "redis.Redis", keys: Mapping[str, str], written: int) -> None:
    """Wait until no reader adds anything more: nobody holds a transaction open by now."""
    before: list[int] = []
    while (sums := [sum(map(int, client.hvals(key))) for key in keys.values()]) != before:
        if all(found == written for found in sums):
            return
        before = sums
        time.sleep(1.0)


@contextmanager
def _pollers(stage: Stage, keys: Mapping[str, str]) -> Iterator[None]:
    """Run every poller as a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    stop, ready = spawn.Event(), spawn.Semaphore(0)
    running: list[SpawnProcess] = []
    for reader, (kind, seconds) in READERS.items():
        args = (stop, ready, kind, stage.dsn, stage.redis.url, keys[reader], seconds)
        running.append(spawn.Process(target=poll_until, args=args, name=reader, daemon=True))
        running[-1].start()
    try:
        for process in running:
            if not ready.acquire(timeout=60):
                raise RuntimeError(f"not every poller started: {process.name}")
        yield
    finally:
        stop.set()
        for process in running:
            process.join(10)


@contextmanager
def _writers(bench: Bench, stage: Stage, weather: Weather, seconds: float) -> Iterator[None]:
    """Let pgbench write for so many seconds; the block ends when it has ended."""
    scripts = {"short": (_SHORT, 100 - weather.held), "held": (_HELD, weather.held)}
    running = [_pgbench(bench, stage, scripts, seconds, "--client", str(_WRITERS), "--jobs", "2", "--rate", str(_RATE))]
    if weather.unrelated:
        unrelated = f"BEGIN;\nINSERT INTO unrelated VALUES ('x');\n\\sleep {weather.unrelated:.0f} s\nCOMMIT;"
        running.append(_pgbench(bench, stage, {"unrelated": (unrelated, 1)}, seconds))
    try:
        yield
        for process in running:
            _, told = process.communicate(timeout=60)
            if process.returncode != 0:
                raise RuntimeError(f"pgbench failed: {told[-1000:]}")
    finally:
        for process in running:
            process.kill()


def _pgbench(
    bench: Bench, stage: Stage, scripts: Mapping[str, tuple[str, int]], seconds: float, *options: str
) -> "subprocess.Popen[str]":
    """Start pgbench with scripts and their weights."""
    command = [str(stage.postgres.bin_dir / "pgbench"), "--no-vacuum", "--time", f"{seconds:.0f}", *options]
    for name, (script, weight) in scripts.items():
        file = bench.folder / f"{name}.sql"
        file.write_text(f"{script}\n", encoding="utf-8")
        command += ["--file", f"{file}@{weight}"] if weight else []
    return subprocess.Popen([*command, stage.dsn], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
