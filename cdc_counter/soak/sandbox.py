"""The sandbox: servers, links and daemon of one soak, all started here, all gone afterwards.

Nobody else's server is ever touched: whatever addresses a configuration names, its counters run on these.
"""

import asyncio
import json
import os
import shutil
import signal
import tempfile
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from redis.asyncio import Redis

from cdc_counter.config import Config, load_config
from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.embedded.child import free_port
from cdc_counter.errors import ConfigError, NotReadyError
from cdc_counter.resources import data_folder
from cdc_counter.soak.daemon import COMMAND, Daemon
from cdc_counter.soak.proxy import FaultProxy

DATABASE: Final = "soak"

_SETTINGS: Final = {
    "max_prepared_transactions": "50",
    "max_slot_wal_keep_size": "8GB",
    # Crash recovery, again and again, should not be what takes the time.
    "checkpoint_timeout": "60s",
    "max_wal_size": "512MB",
}
_DEBIAN: Final = "/usr/lib/postgresql/{}/bin"
_VERIFY: Final = {"share": 0.05, "interval_seconds": 20.0, "repair": False}
"""The daemon's own verifying goes on beside ours, and must not repair what we are looking for."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """`config` leads straight to the servers; the daemon's leads through the two links."""

    folder: Path
    postgres: PostgresServer
    redis: RedisServer
    postgres_link: FaultProxy
    redis_link: FaultProxy
    daemon: Daemon
    config: Config

    @property
    def dsn(self) -> str:
        """Where applications connect."""
        return self.postgres.dsn(DATABASE)

    @asynccontextmanager
    async def redis_client(self) -> AsyncIterator[Redis]:
        """Open a client of Redis that leads around the link."""
        client = Redis.from_url(self.redis.url, protocol=2, socket_timeout=5, socket_connect_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()

    def copy_redis(self) -> None:
        """Keep what Redis has on its disk now."""
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self.redis.data_dir, self._kept)

    def restore_redis(self) -> bool:
        """Put back what was kept, while Redis is stopped; False when nothing was."""
        if not self._kept.exists():
            return False
        shutil.rmtree(self.redis.data_dir)
        shutil.copytree(self._kept, self.redis.data_dir)
        return True

    @property
    def _kept(self) -> Path:
        return self.folder / "redis-kept"


@asynccontextmanager
async def sandbox(
    counters: Path | None, schema: Path | None, *, postgres: str, command: Sequence[str] = COMMAND
) -> AsyncIterator[Sandbox]:
    """Start everything but the daemon for the duration of a block: servers, links, tables, configuration."""
    source = counters or data_folder("config") / "soak.toml"
    declared = _parsed(source)
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="cdc-counter-soak-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = PostgresServer(bin_dir=bin_dir_of(postgres), settings=_SETTINGS)
        redis = RedisServer()
        stack.push_async_callback(asyncio.to_thread, _close, server, redis)
        await asyncio.gather(asyncio.to_thread(server.start), asyncio.to_thread(redis.start))
        await asyncio.to_thread(create_database, server, schema)
        to_postgres = await stack.enter_async_context(FaultProxy(server.port))
        to_redis = await stack.enter_async_context(FaultProxy(redis.port))
        direct = write_config(folder / "soak.toml", declared, server.port, redis.port)
        linked = write_config(folder / "daemon.toml", declared, to_postgres.port, to_redis.port)
        daemon = Daemon(linked, folder / "daemon.log", command)
        stack.push_async_callback(daemon.close)
        yield Sandbox(folder, server, redis, to_postgres, to_redis, daemon, load_config(direct, {}))


def bin_dir_of(postgres: str) -> Path | None:
    """Return the folder of the server's programs: `embedded` (None), a major version, or the folder itself."""
    if postgres == "embedded":
        return None
    folder = Path(_DEBIAN.format(postgres)) if postgres.isdigit() else Path(postgres)
    if not (folder / "postgres").exists():
        raise NotReadyError(
            f"no PostgreSQL server program in {folder}",
            hint="name the folder that holds 'postgres' and 'initdb', or leave --postgres out",
        )
    return folder


def create_database(server: PostgresServer, schema: Path | None) -> None:
    """Create the database and load a file of SQL into it; without one, nothing."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}".encode())
    if schema is None:
        return
    try:
        # psql's own commands, which newer versions of pg_dump write, mean nothing to the server.
        lines = schema.read_text(encoding="utf-8").splitlines()
        with psycopg.connect(server.dsn(DATABASE), autocommit=True) as connection:
            connection.execute("\n".join(line for line in lines if not line.startswith("\\")).encode())
    except (OSError, psycopg.Error) as error:
        reason = " ".join(str(error).split())
        raise NotReadyError(
            f"{schema}: can't be loaded: {reason}",
            hint="make it with: pg_dump --schema-only --no-owner --no-privileges",
        ) from error


def write_config(path: Path, declared: Mapping[str, Any], postgres_port: int, redis_port: int) -> Path:
    """Write a configuration with the counters as declared and the addresses of the sandbox."""
    name = declared.get("postgres", {})
    kept = {key: name[key] for key in ("schema", "slot", "publication") if key in name}
    dsn = f"postgresql://postgres@127.0.0.1:{postgres_port}/{DATABASE}"
    file = {
        "postgres": {**kept, "dsn": dsn, "wal_sender_timeout_seconds": 5, "connect_timeout": 5},
        "redis": {
            "prefix": declared.get("redis", {}).get("prefix", "cdc"),
            "url": f"redis://127.0.0.1:{redis_port}/0",
        },
        "gateway": {"port": free_port()},
        **{section: declared[section] for section in ("stream", "outbox") if section in declared},
        "verify": _VERIFY,
        "counter": declared.get("counter", []),
    }
    path.write_text(as_toml(file), encoding="utf-8")
    return path


def as_toml(file: Mapping[str, Any]) -> str:
    """Return sections of plain values, and lists of such sections, as TOML."""
    lines: list[str] = []
    for name, value in file.items():
        for section in value if isinstance(value, list) else [value]:
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            # A JSON string, number, boolean or list of them is TOML as well.
            lines += [f"{key} = {json.dumps(item)}" for key, item in section.items()]
    return "\n".join(lines) + "\n"


def children_of(server: PostgresServer) -> Mapping[int, str]:
    """Return the processes of a PostgreSQL server by what they call themselves."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{server.pid}/task").glob("*/children"):
        for pid in task.read_text(encoding="ascii").split():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(pid)] = words.decode(errors="replace")
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of the sandbox, which may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _parsed(path: Path) -> dict[str, Any]:
    load_config(path, {}).require_counters()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:  # pragma: no cover  it was read a moment ago
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error


def _close(postgres: PostgresServer, redis: RedisServer) -> None:
    # Something of them may still stand still.
    if postgres.running:
        for pid in (*children_of(postgres), postgres.pid):
            send(pid, signal.SIGCONT)
    if redis.running:
        send(redis.pid, signal.SIGCONT)
    postgres.close()
    redis.close()
