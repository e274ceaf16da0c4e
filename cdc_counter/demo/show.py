"""The demo from start to end: servers, helpdesk, traffic, counters, daemon, page; then all of it away again."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg

from cdc_counter import wiring
from cdc_counter.config import Config, load_config
from cdc_counter.core.events import EventKind, InitEvent
from cdc_counter.demo.shell import psql_line, watch_line
from cdc_counter.demo.supervision import Daemon
from cdc_counter.demo.traffic import writing
from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.embedded.child import free_port
from cdc_counter.errors import BusyError
from cdc_counter.resources import data_folder, sql_blocks

Say = Callable[[str], None]

_PLACEHOLDERS = ("postgresql://postgres@127.0.0.1:5432/helpdesk", "redis://127.0.0.1:6379/0", "port = 8400")
"""What stands in config/demo.toml for the servers of one run."""


_SETTINGS = MappingProxyType({"max_slot_wal_keep_size": "4GB"})
"""A demo that is left alone must not fill the disk."""


async def run_demo(stop: asyncio.Event, *, port: int = 8400, say: Say = print) -> None:
    """Show everything on http://127.0.0.1:PORT/ (0: any) until `stop`; leaves no process and no file behind.

    Raises BusyError when the port is taken.
    """
    port = checked_port(port)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-counter-demo-")))
        postgres, redis = PostgresServer(settings=_SETTINGS), RedisServer()
        stack.callback(redis.close)
        stack.callback(postgres.close)
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(redis.start))
        say(f"PostgreSQL {_dotted(postgres.version)} and Redis {_dotted(redis.version)} started, just for this.")
        config = write_config(folder / "demo.toml", postgres, redis, port)
        daemon = Daemon(config, folder / "daemon.log")
        stack.callback(daemon.end)
        await _until(stop, _show(config, postgres.dsn(), daemon, say))
        say("Stopping.")


async def _show(config: Config, server: str, daemon: Daemon, say: Say) -> None:
    await _load(server, config.postgres.conninfo)
    say("A helpdesk with 24,000 conversations, and four writers that keep changing it.")
    async with writing(config.postgres.conninfo):
        report = await wiring.init(config, lambda event: _tell(say, event))
        say(f"Counters installed and seeded while they wrote: {', '.join(report.counters)}.")
        await daemon.started()
        _explain(say, config)
        await daemon.keep_running(say)


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or `stop` is set, whichever comes first; what it raises is raised."""
    task = asyncio.create_task(work, name="demo")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def checked_port(port: int) -> int:
    """Return the port, a free one for 0; raises BusyError when another program listens on it."""
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BusyError(
                f"port {port} on 127.0.0.1 can't be used: {error.strerror}",
                hint="end the program that listens there, or choose another port with --port (make demo PORT=...)",
            ) from error
    return port


def write_config(path: Path, postgres: PostgresServer, redis: RedisServer, port: int) -> Config:
    """Write the demo's configuration with the addresses of its servers, and read it as any command does."""
    text = (data_folder("config") / "demo.toml").read_text(encoding="utf-8")
    for placeholder, value in zip(_PLACEHOLDERS, (postgres.dsn("helpdesk"), redis.url, f"port = {port}"), strict=True):
        text = text.replace(placeholder, value)
    path.write_text(text, encoding="utf-8")
    return load_config(path, {})


async def _load(server: str, helpdesk: str) -> None:
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute("CREATE DATABASE helpdesk")
    async with await psycopg.AsyncConnection.connect(helpdesk) as connection:
        for block in ("schema", "data"):
            await connection.execute(sql_blocks("demo")[block].encode())


def _tell(say: Say, event: InitEvent) -> None:
    if event.kind in {EventKind.STEP, EventKind.WARNING, EventKind.WAITING}:
        say(f"  {event.title}{f': {event.detail}' if event.detail else ''}")


def _explain(say: Say, config: Config) -> None:
    say("")
    say(f"  http://127.0.0.1:{config.gateway.port}/")
    say("")
    say("Open it twice, press the buttons, kill the daemon. Or from another terminal:")
    say(f"  {watch_line(config.path, 'open_by_channel', '1')}")
    say(f"  {psql_line(config.postgres.conninfo)}   # and change helpdesk.conversations as you like")
    say("Ctrl-C ends it and leaves nothing behind.")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
