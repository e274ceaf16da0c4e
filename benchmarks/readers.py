"""What the readers pay: the same number by COUNT(*) and from Redis, for more viewers and for more changes.

Each viewer asks once a second. COUNT(*) costs the database by the viewer, counters cost it by the change. Both are
measured beside the same writers, as CPU seconds of the database per minute; what our process and Redis take beside it
is reported, too. COUNT(*) reads a table that has no triggers.
"""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import redis.asyncio

from benchmarks.bench import Bench
from benchmarks.chart import Chart, Lines
from benchmarks.figures import OURS, Figures
from benchmarks.stage import Stage, cpu_seconds, server_cpu_seconds
from benchmarks.targets import Target

TITLE: Final = "What the readers pay"
TARGETS: Final[tuple[Target, ...]] = ()

COUNT: Final = "COUNT(*)"
HASH: Final = f"{OURS}, HGETALL"
HTTP: Final = f"{OURS}, HTTP"

DATABASE: Final = "CPU of the database"
BESIDE: Final = "CPU of cdc-counter and Redis"
_UNIT: Final = "s/min"

_ACCOUNTS: Final = 100
_CHANNELS: Final = 10
_VIEWERS: Final = (1, 10, 100, 500)
_CHANGES: Final = (1, 10, 100, 500)
_SOME_VIEWERS: Final = 100
_SOME_CHANGES: Final = 10

_PARTS: Final = {
    "viewers": [(viewers, _SOME_CHANGES) for viewers in _VIEWERS],
    "changes": [(_SOME_VIEWERS, changes) for changes in _CHANGES if changes != _SOME_CHANGES],
}
"""Points (viewers, changes a second) of each chart; the one that both have is measured once."""

_FILL: Final = f"""
CREATE TABLE {{table}} (id bigint NOT NULL, account_id int NOT NULL, channel_id int NOT NULL, status text NOT NULL);
INSERT INTO {{table}}
SELECT i, i % {_ACCOUNTS}, i / {_ACCOUNTS} % {_CHANNELS}, CASE i % 7 WHEN 0 THEN 'open' ELSE 'closed' END
  FROM generate_series(1, {{rows}}) AS i;
ALTER TABLE {{table}} ADD PRIMARY KEY (id);
CREATE INDEX ON {{table}} (account_id, channel_id) WHERE status = 'open';
"""
_COUNTER: Final = """
[[counter]]
name = "open_by_channel"
table = "counted"
where = "status = 'open'"
scope = "account_id"
by = "channel_id"
"""
_READ: Final = f"""
\\set account random(0, {_ACCOUNTS - 1})
SELECT channel_id, count(*) FROM plain WHERE account_id = :account AND status = 'open' GROUP BY channel_id;
"""
_WRITE: Final = """
\\set id random(1, {rows})
UPDATE {table} SET status = CASE status WHEN 'open' THEN 'closed' ELSE 'open' END WHERE id = :id;
"""


def run(bench: Bench) -> None:
    """Measure over viewers at a fixed rate of changes, and over changes with a fixed number of viewers."""
    for rows in sorted({bench.sized(1_000_000, 100_000), bench.sized(10_000_000, 100_000)}):
        points = [point for name, part in _PARTS.items() if bench.wants(f"{rows} rows, {name}") for point in part]
        if not points:
            continue
        # Index-only scans need a vacuum now and then, as in production.
        with Stage(bench.folder, {"autovacuum": "on"}) as stage:
            for table in ("plain", "counted"):
                stage.sql(_FILL.format(table=table, rows=rows))
            stage.sql("VACUUM (ANALYZE) plain")
            stage.sql("VACUUM (ANALYZE) counted")
            stage.configure(_COUNTER)
            stage.run("init")
            for viewers, changes in points[:: 3 if bench.quick else 1]:
                _measure(bench, stage, rows, viewers, changes)


def _measure(bench: Bench, stage: Stage, rows: int, viewers: int, changes: int) -> None:
    seconds = 2 if bench.quick else 5
    peers: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        COUNT: partial(_count, bench, stage, viewers, seconds),
        HTTP: partial(_http, stage, viewers, seconds),
    }
    if (viewers, changes) == (_SOME_VIEWERS, _SOME_CHANGES):
        # Once is enough: to the database it is the same, nothing.
        peers[HASH] = partial(_hgetall, stage, viewers, seconds)
    what = f"{rows:,} rows, {viewers} viewers, {changes} changes/s"
    for peer in bench.turns(what, list(peers), rounds=1 if bench.quick else min(bench.rounds, 2)):
        counted = peer != COUNT
        conditions = {"rows": rows, "viewers": viewers, "changes_per_second": changes}
        with _keeping(stage, wanted=counted) as pids, _writing(bench, stage, counted, rows, changes, seconds):
            database, beside = _spent(stage, pids)
            began = time.monotonic()
            asyncio.run(peers[peer]())
            per_minute = 60 / (time.monotonic() - began)
            database_after, beside_after = _spent(stage, pids)
        bench.record(DATABASE, peer, _UNIT, (database_after - database) * per_minute, **conditions)
        if counted:
            bench.record(BESIDE, peer, _UNIT, (beside_after - beside) * per_minute, **conditions)


def _spent(stage: Stage, pids: Sequence[int]) -> tuple[float, float]:
    return server_cpu_seconds(stage.postgres.pid), sum(map(cpu_seconds, pids))


@contextmanager
def _keeping(stage: Stage, *, wanted: bool) -> Iterator[Sequence[int]]:
    """Run the daemon where its numbers are read; gives the processes beside the database."""
    if not wanted:
        yield ()
        return
    with stage.daemon() as daemon:
        daemon.start().wait_ready()
        stage.wait_applied()
        # The first look at everything is over: what is measured is what goes on for ever.
        time.sleep(2)
        yield daemon.process.pid, stage.redis.pid


@contextmanager
def _writing(bench: Bench, stage: Stage, counted: bool, rows: int, changes: int, seconds: float) -> Iterator[None]:
    script = _WRITE.format(rows=rows, table="counted" if counted else "plain")
    with _pgbench(bench, stage, "write", script, clients=4, rate=changes, seconds=seconds + 1):
        time.sleep(0.5)
        yield


@contextmanager
def _pgbench(
    bench: Bench, stage: Stage, name: str, script: str, *, clients: int, rate: int, seconds: float
) -> Iterator["subprocess.Popen[str]"]:
    file = bench.folder / f"{name}.sql"
    file.write_text(script, encoding="utf-8")
    command: list[str | Path] = [
        stage.postgres.bin_dir / "pgbench",
        "--no-vacuum",
        "--protocol",
        "prepared",
        "--file",
        file,
    ]
    command += ["--client", str(clients), "--rate", str(rate), "--time", f"{seconds:.0f}", stage.dsn]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
            if running.wait(60) != 0:
                raise RuntimeError(f"pgbench failed: {running.stderr.read()[-1000:] if running.stderr else ''}")
        finally:
            running.kill()


async def _count(bench: Bench, stage: Stage, viewers: int, seconds: float) -> None:
    with _pgbench(bench, stage, "read", _READ, clients=viewers, rate=viewers, seconds=seconds):
        pass


async def _hgetall(stage: Stage, viewers: int, seconds: float) -> None:
    client = redis.asyncio.Redis.from_url(stage.redis.url)
    try:
        await _look_each_second(
            viewers, seconds, lambda account: client.hgetall(f"cdc:tally:open_by_channel:{account}")
        )
    finally:
        await client.aclose()


async def _http(stage: Stage, viewers: int, seconds: float) -> None:
    base = f"http://127.0.0.1:{stage.port}/v1/counters/open_by_channel"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def read(account: int) -> None:
            async with session.get(f"{base}/{account}") as answer:
                answer.raise_for_status()
                await answer.read()

        await _look_each_second(viewers, seconds, read)


async def _look_each_second(viewers: int, seconds: float, read: Callable[[int], Awaitable[object]]) -> None:
    """Let every viewer look once a second, each at its own moment."""
    began = time.monotonic()

    async def view(number: int) -> None:
        turn = number / viewers
        while turn < seconds:
            await asyncio.sleep(began + turn - time.monotonic())
            await read(number % _ACCOUNTS)
            turn += 1.0

    await asyncio.gather(*map(view, range(viewers)))
    await asyncio.sleep(began + seconds - time.monotonic())


def charts(figures: Figures) -> Sequence[Chart]:
    """Draw the database's CPU over viewers and over changes."""
    by_viewers = _lines(figures.select(DATABASE, changes_per_second=_SOME_CHANGES), "viewers")
    by_changes = _lines(figures.select(DATABASE, viewers=_SOME_VIEWERS), "changes_per_second")
    unit = "CPU seconds of the database per minute"
    drawn = []
    if by_viewers:
        title = f"Cost per viewer ({_SOME_CHANGES} changes a second)"
        drawn.append(Lines("viewers", title, "viewers, each looking once a second", unit, by_viewers))
    if by_changes:
        title = f"Cost per change ({_SOME_VIEWERS} viewers)"
        drawn.append(Lines("changes", title, "changes a second", unit, by_changes))
    return drawn


def _lines(figures: Figures, over: str) -> dict[str, list[tuple[float, float]]]:
    """Return a line for each peer and size; HTTP reads cost the database what HGETALL does: nothing."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for figure in figures:
        if figure.peer != HASH:
            label = f"{figure.peer}, {int(figure.conditions['rows']) / 1e6:g} M rows"
            lines.setdefault(label, []).append((float(figure.conditions[over]), figure.spread.median))
    return {label: sorted(points) for label, points in lines.items()}
