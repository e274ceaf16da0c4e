"""The servers that everything is measured on, with counters installed, and the daemon that keeps them."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psycopg
import redis

from cdc_counter.core.lsn import Lsn
from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.embedded.child import free_port
from tests.rig.daemon import Daemon, command
from tests.rig.tallies import watermark

SETTINGS: Mapping[str, str] = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_connections": "600",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
}
"""Nothing but the measured work runs; commits are flushed, as in production, unless a section says otherwise."""


class Stage:
    """PostgreSQL and Redis of our own. A context manager; a section opens one, or one for each of its parts."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.postgres = PostgresServer(settings={**SETTINGS, **(settings or {})})
        self.redis = RedisServer()
        self.config = folder / "cdc-counter.toml"
        self.port = free_port()
        self._log = folder / "daemon.log"

    def __enter__(self) -> Self:
        self.postgres.__enter__()
        self.redis.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self.postgres.close()

    @property
    def dsn(self) -> str:
        """Over TCP."""
        return self.postgres.dsn()

    @property
    def unix_dsn(self) -> str:
        """Over the Unix socket."""
        return f"host={self.postgres.folder} port={self.postgres.port} user=postgres dbname=postgres"

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement, or several without values, and return its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def configure(self, counters: str, more: str = "", *, dsn: str = "") -> None:
        """Write the configuration: counters as in cdc-counter.toml, other sections in `more`."""
        self.config.write_text(
            f'[postgres]\ndsn = "{dsn or self.dsn}"\n[redis]\nurl = "{self.redis.url}"\n'
            f"[gateway]\nport = {self.port}\n{more}\n{counters}",
            encoding="utf-8",
        )

    def run(self, *words: str) -> None:
        """Run a command of cdc-counter, such as `init`."""
        done = command(*words, config=self.config)
        if done.returncode != 0:
            raise RuntimeError(f"cdc-counter {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")

    def daemon(self, *words: str) -> Daemon:
        """Return `cdc-counter run`, to be started; a context manager that ends it."""
        return Daemon(self.config, self._log, port=self.port, words=("run", *words))

    def wait_applied(self, deadline: float = 300.0) -> None:
        """Wait until Redis holds every commit so far."""
        goal = Lsn.parse(self.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
        self.sql("SELECT pg_logical_emit_message(true, 'bench', '', true)")
        late = time.monotonic() + deadline
        while watermark(self.redis.url) < goal:
            if time.monotonic() > late:
                raise TimeoutError(f"Redis does not hold {goal} after {deadline:g} s")
            time.sleep(0.01)

    def client(self) -> redis.Redis:
        """Return a connection to Redis, to be closed."""
        return redis.Redis.from_url(self.redis.url, protocol=2)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of those of its children that ended and were waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return sum(map(int, fields[11:15])) / 100


def server_cpu_seconds(postmaster: int) -> float:
    """Return that of a PostgreSQL server with all its processes, those that ended too."""
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="ascii").split()
    found = cpu_seconds(postmaster)
    for child in children:
        # One that has ended since is in its parent's next answer.
        with suppress(FileNotFoundError, ProcessLookupError):
            found += cpu_seconds(int(child))
    return found


def memory(pid: int, what: str = "VmRSS") -> int:
    """Return bytes resident now, or ever at the most (`VmHWM`)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else 0
