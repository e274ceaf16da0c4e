"""A soak from start to end: sandbox, tables, counters, then everything at once until it is over."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from psycopg import AsyncConnection
from redis.exceptions import RedisError

from cdc_counter import wiring
from cdc_counter.config import Config
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.verification import Verification
from cdc_counter.errors import BusyError, DefinitionError
from cdc_counter.resources import sql_blocks
from cdc_counter.soak.checking import Checker
from cdc_counter.soak.daemon import COMMAND
from cdc_counter.soak.faults import Faults
from cdc_counter.soak.gate import Gate
from cdc_counter.soak.injection import Injector
from cdc_counter.soak.observation import Observation
from cdc_counter.soak.page import page
from cdc_counter.soak.record import FindingKind, Record, Sample
from cdc_counter.soak.report import FILE, About, Report, lines, summarise
from cdc_counter.soak.rest import Rest
from cdc_counter.soak.rows import Rows
from cdc_counter.soak.sandbox import Sandbox, sandbox
from cdc_counter.soak.schedule import FaultKind, schedule
from cdc_counter.soak.schema import Table, read_schema
from cdc_counter.soak.writers import Load, Writers, Written

_SAMPLE_SECONDS: Final = 1.0
_SAVE_SECONDS: Final = 60.0
_SILENCE_SECONDS: Final = 2.5
"""A daemon that was killed while it verified is asked again after so long."""

_INSTALLATIONS: Final = 10
"""Attempts, each of which meets other partitions."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a soak is asked to do. `config` and `schema` None: the soak's own counters and tables.

    It ends after `seconds` or `cycles`, whichever comes first; None: no limit. `bound` is how many seconds a recovery
    may take.
    """

    config: Path | None = None
    schema: Path | None = None
    seed: int = 1
    seconds: float | None = 600.0
    cycles: int | None = None
    postgres: str = "embedded"
    report: Path | None = None
    faults: frozenset[FaultKind] = frozenset(FaultKind)
    mean_pause: float = 7.0
    rest_seconds: float = 150.0
    bound: float = 180.0
    check_pause: float = 0.02
    load: Load = field(default_factory=Load)
    command: Sequence[str] = COMMAND
    line: str = ""
    version: str = ""


class Screen(Protocol):
    """Whoever shows how it goes. `event` gets a line, `refresh` is called every second."""

    def event(self, after: float, text: str) -> None:
        """Take a line that is worth one."""

    def refresh(self, record: Record, written: Written) -> None:
        """Show the figures as they are."""


async def run_soak(settings: Settings, stop: asyncio.Event, screen: Screen) -> Report:
    """Run until it is over or `stop` is set; leaves no process and no file behind but the report's."""
    record = Record(on_event=lambda text: screen.event(record.seconds, text))
    async with sandbox(settings.config, settings.schema, postgres=settings.postgres, command=settings.command) as box:
        about = About(
            settings.seed, _dotted(box.postgres.version), _dotted(box.redis.version), settings.line, settings.version
        )
        record.say(f"PostgreSQL {about.postgres} and Redis {about.redis} started, just for this; seed {about.seed}")
        soak = Soak(settings, box, record, screen, about)
        try:
            await soak.run(stop)
        finally:
            report = soak.save(final=True)
            soak.show()
        return report


class Soak:
    """One soak in its sandbox."""

    def __init__(self, settings: Settings, box: Sandbox, record: Record, screen: Screen, about: About) -> None:
        self._settings = settings
        self._box = box
        self._record = record
        self._screen = screen
        self._about = about
        self._written = Written()
        self._gate = Gate()
        self._own_tables = settings.config is None and settings.schema is None
        self._observation = Observation(box, honest=self._own_tables)
        counters = len(box.config.counters)
        self._rest = Rest(self._gate, self._observation, record, counters, bound=settings.bound)

    async def run(self, stop: asyncio.Event) -> None:
        """Install, seed, and let everything loose until it is over."""
        tables = await self._prepared_tables()
        writers = Writers(
            self._box.dsn,
            tables,
            self._gate,
            self._settings.seed,
            load=self._settings.load,
            own_schema=self._box.config.postgres.schema_name,
        )
        self._written = writers.written
        await writers.fill()
        async with _beside(writers.run()) as writing:
            await self._install()
            writers.settled.set()
            self._record.say(f"{len(self._box.config.counters)} counters installed and seeded while others wrote")
            async with _beside(self._box.daemon.keep_running()):
                await self._everything(stop, writing)
                if not self._record.findings:
                    async with self._rest.calm:
                        await self._rest.compare()

    async def _install(self) -> None:
        """Install; where partitions came or went meanwhile again, as whoever reads the command's hint would."""
        for attempt in range(1, _INSTALLATIONS + 1):
            try:
                await wiring.init(self._box.config, lambda _: None)
            except BusyError as error:
                if attempt == _INSTALLATIONS:
                    raise
                self._record.say(f"installing again: {error}")
            else:
                return

    def report(self) -> Report:
        """Return what was seen so far."""
        daemon = self._box.daemon
        return summarise(self._record, self._written, self._about, starts=daemon.starts, ended=daemon.ended)

    def show(self) -> None:
        """Let whoever watches see the last figures."""
        self._screen.refresh(self._record, self._written)

    def save(self, *, final: bool = False) -> Report:
        """Write the report's files, where they are wanted; with the daemon's log when something was found."""
        folder, report = self._settings.report, self.report()
        if folder is None:
            return report
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        if final:
            (folder / "report.txt").write_text("\n".join(lines(report)) + "\n", encoding="utf-8")
            (folder / "report.html").write_text(page(report, self._record), encoding="utf-8")
            if not report.passed:
                self._keep_logs(folder)
        return report

    def _keep_logs(self, folder: Path) -> None:
        for log in (self._box.daemon.log, self._box.postgres.log, self._box.redis.log):
            if log.exists():
                shutil.copyfile(log, folder / log.name)
        events = [f"{after:9.1f} {text}" for after, text in self._record.events]
        (folder / "events.log").write_text("\n".join(events) + "\n", encoding="utf-8")
        (folder / "transactions.log").write_text("\n".join(self._written.journal) + "\n", encoding="utf-8")
        (folder / "ledger.log").write_text("\n".join(self._record.ledger) + "\n", encoding="utf-8")

    async def _prepared_tables(self) -> list[Rows]:
        async with await AsyncConnection.connect(self._box.dsn, autocommit=True) as connection:
            if self._own_tables:
                for block in ("schema", "data", "key_text"):
                    await connection.execute(sql_blocks("soak")[block].encode())
        async with await AsyncConnection.connect(self._box.dsn, autocommit=True) as connection:
            found = await read_schema(connection, self._box.config.postgres.schema_name)
        tables, left_out = writable(found, self._box.config.counters)
        for name in left_out:
            self._record.say(f"{name} is not written to: a column of it must have a value of a type not known here")
        if not tables:
            raise DefinitionError(
                "there is no table to write to", hint="name the tables' definitions with --schema FILE.sql"
            )
        return tables

    async def _everything(self, stop: asyncio.Event, writing: "asyncio.Task[None]") -> None:
        settings = self._settings
        faults = schedule(settings.faults, settings.seed, settings.mean_pause)
        checker = Checker(
            self._verify(),
            self._box.daemon,
            self._observation,
            self._rest,
            self._record,
            pause=settings.check_pause,
        )
        names = [definition.name for definition in self._box.config.counters]
        missing = await self._rest.recovery(await self._rest.end_of_wal(), 0.0)
        if missing is not None:
            self._record.find(FindingKind.NOT_RECOVERED, f"at the start: {missing}")
            return
        self._record.say("the daemon streams; faults and verification begin")
        async with (
            _beside(checker.run(names, settings.cycles)) as checking,
            _beside(Faults(Injector(self._box), self._rest, self._record).run(faults)) as breaking,
            _beside(self._rest.run(settings.rest_seconds)) as resting,
            _beside(self._sample()) as sampling,
        ):
            await self._until_over(stop, checking, (writing, breaking, resting, sampling))

    def _verify(self) -> Callable[[str], Any]:
        config: Config = self._box.config

        async def verify(counter: str) -> Verification:
            report = await wiring.verify(config, counters=(counter,), silence_seconds=_SILENCE_SECONDS)
            return report.verifications[0]

        return verify

    async def _until_over(
        self, stop: asyncio.Event, checking: "asyncio.Task[None]", others: Sequence["asyncio.Task[None]"]
    ) -> None:
        if self._settings.seconds is not None:
            self._record.ends = self._record.seconds + self._settings.seconds
        while not stop.is_set() and not self._record.findings and not checking.done():
            for task in others:
                # Without faults to inject there is nothing to do.
                if task.done() and (error := task.exception()) is not None:
                    raise error
            if self._record.ends is not None and self._record.seconds >= self._record.ends:
                break
            await asyncio.sleep(_SAMPLE_SECONDS / 4)
        if checking.done():
            checking.result()
        if stop.is_set():
            self._record.say("told to stop")
        # What is broken at this moment is given the time to get well: the last comparison wants it so.
        if not self._record.findings:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.bound):
                    await self._rest.calm.acquire()
                self._rest.calm.release()

    async def _sample(self) -> None:
        next_save = _SAVE_SECONDS
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            self._record.samples.append(await self._look())
            self._collect()
            self.show()
            if self._record.seconds >= next_save:
                next_save += _SAVE_SECONDS
                self.save()

    async def _look(self) -> Sample:
        lag: float | None = None
        backlog: int | None = None
        live = 0
        with contextlib.suppress(RedisError, OSError):
            sight = await self._observation.look()
            live = sum(record.state == "live" for record in sight.records.values())
            if sight.status is not None:
                lag, backlog = sight.status.lag, sight.status.backlog
        return Sample(self._record.seconds, lag, backlog, self._record.checks, self._written.total, live)

    def _collect(self) -> None:
        """Take what others noted for themselves."""
        known = self._record.count(FindingKind.WRITER)
        for text in self._written.unexpected[known:]:
            self._record.find(FindingKind.WRITER, text)
        if self._box.daemon.ended[70] and not self._record.count(FindingKind.DAEMON):
            self._record.find(FindingKind.DAEMON, f"it ended with a defect: {self._box.daemon.log_end(3)}")


def writable(tables: Sequence[Table], counters: Sequence[CounterDefinition]) -> tuple[list[Rows], list[str]]:
    """Return the tables that can be written to, counted ones twice, and the names of the others."""
    found: list[Rows] = []
    left_out = []
    for table in tables:
        about = [definition for definition in counters if _same_table(definition.table, table.name)]
        expressions = [text for d in about for text in (*d.scope, *d.by, d.where or "", d.sum_of or "")]
        rows = Rows.of(table, expressions)
        if rows is None:
            left_out.append(table.name)
        else:
            found += [rows, rows] if about else [rows]
    return found, left_out


def _same_table(written: str, name: str) -> bool:
    """Say whether a name as written in a configuration may be the one that is quoted and qualified."""
    bare = name.replace('"', "")
    return written.replace('"', "") in {bare, bare.partition(".")[2]}


@asynccontextmanager
async def _beside(work: Any) -> AsyncIterator["asyncio.Task[None]"]:
    """Run something for the duration of a block."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, psycopg.Error):
            await task


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
