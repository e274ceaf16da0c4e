"""How many one-row transactions per second eight writers get through, with pgbench, on every core there is."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.writers.kinds import COUNTING_UPDATE, INSERT
from benchmarks.writers.tables import BARE, COUNTED, COUNTER, OURS_3, ROWS, Competitor
from cdc_counter.embedded import PostgresServer

THROUGHPUT: Final = "transactions of eight writers"
SPREAD: Final = "many"
HOT: Final = "one"
"""Keys that the writers write to."""

_CLIENTS: Final = "8"
_COUNTS_PER_SECOND: Final = "200"
"""A page of two hundred viewers that asks again every second."""

_TRIES: Final = "20"
_TPS: Final = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)

_SCRIPTS: Final[Mapping[str, str]] = {
    INSERT: r"""
\set account random(0, {accounts} - 1)
\set channel random(0, {channels} - 1)
\set assignee random(0, {assignees} - 1)
INSERT INTO {table} (account_id, channel_id, assignee_id, status, subject)
VALUES (:account, :channel, :assignee, 'open', 'What somebody has written');
""",
    COUNTING_UPDATE: r"""
\set id random(1, {rows})
UPDATE {table} SET status = CASE status WHEN 'open' THEN 'closed' ELSE 'open' END WHERE id = :id;
""",
}
_KEYS: Final = {
    SPREAD: {"accounts": 100, "channels": 10, "assignees": 7},
    HOT: {"accounts": 1, "channels": 1, "assignees": 1},
}
_COUNT: Final = r"""
\set account random(0, 99)
SELECT channel_id, count(*) FROM {table} WHERE account_id = :account AND status = 'open' GROUP BY channel_id;
"""


@dataclass(frozen=True, slots=True)
class _Load:
    statement: str
    keys: str
    commit: str

    @property
    def competitors(self) -> tuple[Competitor, ...]:
        """What readers cost does not depend on which keys are written."""
        return (BARE, OURS_3, ROWS, COUNTER, *((COUNTED,) if self.keys == SPREAD else ()))


_LOADS: Final = (
    _Load(INSERT, SPREAD, "off"),
    _Load(INSERT, HOT, "off"),
    _Load(INSERT, SPREAD, "on"),
    _Load(COUNTING_UPDATE, SPREAD, "off"),
)


def measure(bench: Bench, server: PostgresServer, rows: int) -> None:
    """Record transactions per second of inserts and updates, on many keys and on one, by synchronous_commit."""
    for load in _LOADS[:1] if bench.quick else _LOADS:
        by_peer = {each.peer: each for each in load.competitors}
        for peer in bench.turns(f"{load.statement}, {load.keys} key, commit {load.commit}", list(by_peer)):
            conditions = {"statement": load.statement, "keys": load.keys, "synchronous_commit": load.commit}
            rate = _rate(bench.folder, server, load, by_peer[peer], rows)
            bench.record(THROUGHPUT, peer, "1/s", rate, counters=by_peer[peer].counters, **conditions)


def _rate(folder: Path, server: PostgresServer, load: _Load, competitor: Competitor, rows: int) -> float:
    values = {"table": competitor.table, "rows": rows, **_KEYS[load.keys]}
    script = folder / "writers.sql"
    script.write_text(_SCRIPTS[load.statement].format(**values), encoding="utf-8")
    command = [*_pgbench(server, script), "-c", _CLIENTS, "-j", "2", "-T", "1", f"--max-tries={_TRIES}"]
    environment = {**os.environ, "PGOPTIONS": f"-c synchronous_commit={load.commit}"}
    with _readers(folder, server, competitor):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = _TPS.search(done.stdout)
    if done.returncode or found is None:
        raise RuntimeError(f"pgbench failed on {competitor.table}: {done.stdout}{done.stderr}")
    return float(found[1])


@contextmanager
def _readers(folder: Path, server: PostgresServer, competitor: Competitor) -> Iterator[None]:
    """Where readers do the counting, let them count meanwhile, at a fixed rate."""
    if competitor is not COUNTED:
        yield
        return
    script = folder / "readers.sql"
    script.write_text(_COUNT.format(table=competitor.table), encoding="utf-8")
    # It ends by itself after some seconds; the writers are done before.
    command = [*_pgbench(server, script), "-c", "2", "-R", _COUNTS_PER_SECOND, "-T", "60"]
    readers = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        readers.terminate()
        readers.wait()


def _pgbench(server: PostgresServer, script: Path) -> list[str]:
    """Return the command so far: over the Unix socket, statements prepared."""
    where = ["-h", str(server.folder), "-p", str(server.port), "-U", "postgres"]
    return [str(server.bin_dir / "pgbench"), "-n", "-M", "prepared", *where, "-f", str(script), "postgres"]
