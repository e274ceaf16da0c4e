"""Everything that runs while it is measured: servers, our daemon, the writers, and all who wait for commits.

Each peer has a table of its own, alike, in a database without our triggers. What is not measured right now stays idle.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import psycopg
from psycopg import sql

from benchmarks.crowd.plan import Plan
from benchmarks.crowd.watching import Crowd
from benchmarks.latency.sightings import Commit, Sighting
from benchmarks.latency.task import Task
from benchmarks.pipes import Program
from benchmarks.sql import blocks, run
from benchmarks.stage import Stage, cpu_seconds, server_cpu_seconds

ROOMS: Final = 100

MESSAGES: Final = "messages"
"""Our table; the others are the peers'."""
RECEIVED: Final = "received"
SENT_ON: Final = "sent_on"
POLLED: Final = "polled"
NOTIFIED: Final = "notified"

_BESIDE: Final = {**dict.fromkeys((RECEIVED, SENT_ON), ("publish", "slot")), NOTIFIED: ("notify",)}

_PROBES_PER_SECOND: Final = 40
"""Commits that are looked for over HTTP; each takes a request or two, and the rest must not suffer from it."""

_BY_ROOM: Final = "by_room"
_EVERYWHERE: Final = "everywhere"
_COUNTERS: Final = f"""
[[counter]]
name = "{_BY_ROOM}"
table = "{MESSAGES}"
scope = "room"

[[counter]]
name = "{_EVERYWHERE}"
table = "{MESSAGES}"
by = "room"
"""
_OBSERVERS: Final = "benchmarks.latency.observers"


def make_table(connection: psycopg.Connection, name: str, base: int) -> None:
    """Make a table, with what its peer needs beside it."""
    named = blocks(Path(__file__).with_name("scene.sql"))
    for block in ("table", "vacuum", *_BESIDE.get(name, ())):
        numbers = {"base": sql.Literal(base), "rooms": sql.Literal(ROOMS)}
        run(connection, named[block], table=sql.Identifier(name), name=sql.Literal(name), **numbers)


class Watch:
    """An observer in a process of its own."""

    def __init__(self, folder: Path, name: str, *arguments: object) -> None:
        self._file = folder / f"{name}.seen"
        self.program = Program.module(f"{_OBSERVERS}.{name}", *map(str, arguments))

    def begin(self) -> None:
        """Have it watch."""
        self.program.ask("begin")

    def end(self) -> list[Sighting]:
        """Return what it saw."""
        self.program.ask(f"end {self._file}")
        return [Sighting(*each) for each in json.loads(self._file.read_text(encoding="utf-8"))]


class Scene:
    """A context manager. `base` rows are in every room to begin with."""

    def __init__(self, folder: Path, base: int) -> None:
        self._folder = folder
        self._base = base
        self._stack = ExitStack()
        self.stage = Stage(folder)

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, table: str, rate: float, seconds: float) -> list[Commit]:
        """Write to one of the tables."""
        file = self._folder / "commits"
        ours = table == MESSAGES
        task = Task(
            dsn=self.stage.dsn if ours else self._peers_dsn,
            table=table,
            rooms=ROOMS,
            base=self._base,
            rate=rate,
            seconds=seconds,
            file=str(file),
            probes=str(self._probes) if ours else "",
            probe_every=max(1, round(rate / _PROBES_PER_SECOND)),
        )
        self._writers.ask(task.to_json())
        return [Commit(*each) for each in json.loads(file.read_text(encoding="utf-8"))]

    def cpu_seconds(self) -> dict[str, float]:
        """Return what everybody who serves our commits has used so far."""
        return {
            "daemon": cpu_seconds(self._daemon.process.pid),
            "Redis": cpu_seconds(self.stage.redis.pid),
            "PostgreSQL": server_cpu_seconds(self.stage.postgres.pid),
        }

    def crowd(self, *, in_one_room: bool) -> Crowd:
        """Return clients to be connected, as many as there are rooms: each in its own, or all in one."""
        own: list[tuple[str, str | None]] = [(_BY_ROOM, str(room)) for room in range(ROOMS)]
        rooms = [(_EVERYWHERE, None)] * ROOMS if in_one_room else own
        return Crowd(Plan(self.stage.port, progress="", rooms=[[room] for room in rooms]), self._folder)

    def _build(self) -> None:
        enter = self._stack.enter_context
        enter(self.stage)
        self.stage.sql("CREATE DATABASE peers")
        self._peers_dsn = self.stage.postgres.dsn("peers")
        for dsn, tables in ((self.stage.dsn, (MESSAGES,)), (self._peers_dsn, (RECEIVED, SENT_ON, POLLED, NOTIFIED))):
            with psycopg.connect(dsn, autocommit=True) as connection:
                for table in tables:
                    make_table(connection, table, self._base)
        self.stage.configure(_COUNTERS)
        self.stage.run("init")
        self._daemon = enter(self.stage.daemon()).start().wait_ready()
        self._probes = self._folder / "probes"
        peers, folder, port = self._peers_dsn, self._folder, self.stage.port
        self.feed = self._watching(Watch(folder, "feed", self.stage.redis.port, _BY_ROOM))
        self.http = self._watching(Watch(folder, "http", port, _BY_ROOM, self._probes))
        self.floor = self._watching(Watch(folder, "floor", peers, RECEIVED, self._base))
        sent_on = Watch(folder, "floor", peers, SENT_ON, self._base, self.stage.redis.port)
        self.sent_on = self._watching(sent_on)
        self.polling = self._watching(Watch(folder, "recounting", peers, POLLED, "polling"))
        self.notified = self._watching(Watch(folder, "recounting", peers, NOTIFIED, "notified"))
        self._writers = enter(Program.module("benchmarks.latency.writing"))

    def _watching(self, watch: Watch) -> Watch:
        self._stack.enter_context(watch.program)
        return watch
