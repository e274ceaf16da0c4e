"""Draining a recorded backlog, each reader on a copy of the same slot; and what readers lose while writers write."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from benchmarks.bench import Bench
from benchmarks.chart import Bars, Chart
from benchmarks.drain import readers
from benchmarks.drain.backlog import BASE_PUBLICATION, FEW_KEYS, MANY_KEYS, ONE_ROW, SHAPES, SLOT, Backlog, Shape
from benchmarks.drain.loss import measure_losses
from benchmarks.drain.polling import BY_DELETING, BY_ID, Poller
from benchmarks.figures import OURS, Figures
from benchmarks.installing import npm_version_of, python_version_of
from benchmarks.stage import Stage
from benchmarks.targets import Target

TITLE: Final = "Draining a backlog"

CATCH_UP: Final = f"{OURS}, catching up"
OUR_SLOT: Final = "pg_recvlogical, our slot"
BASE_TABLE: Final = "pg_recvlogical, base table"

_TCP: Final = {"transport": "tcp"}
_UNIX: Final = {"transport": "unix"}
_BATCHES: Final = (FEW_KEYS, MANY_KEYS)

TARGETS: Final = (
    Target(ONE_ROW.name, _TCP, to=OUR_SLOT, at_least=1.3),
    Target(ONE_ROW.name, _UNIX, to=OUR_SLOT, at_least=1.0),
    *(Target(shape.name, _TCP, to=BASE_TABLE, at_least=4) for shape in _BATCHES),
    Target(ONE_ROW.name, _TCP, CATCH_UP, to=OUR_SLOT, at_least=4),
    Target(ONE_ROW.name, _UNIX, CATCH_UP, to=OUR_SLOT, at_least=2),
    *(Target(shape.name, _TCP, CATCH_UP, to=BASE_TABLE, at_least=10) for shape in _BATCHES),
    *(Target(shape.name, _UNIX, CATCH_UP, to=BASE_TABLE, at_least=5) for shape in _BATCHES),
)

_SLOW_SHARE: Final = 10
"""The other clients read a tenth of the backlog: their rate is the same, and the run has an end."""

_SLOWEST_SHARE: Final = 200

_OTHERS: Final = "other clients"
_PARTS: Final = ("tcp", "unix", _OTHERS)
"""Of a shape; the other clients read one of them, over TCP."""

Readers = Mapping[str, Callable[[], float]]


def run(bench: Bench) -> None:
    """Measure every shape over both transports, then the losses."""
    changes = bench.sized(1_000_000, 20_000)
    for shape in (ONE_ROW, MANY_KEYS) if bench.quick else SHAPES:
        parts = {part: f"{shape.name}, {part}" for part in _PARTS if shape is ONE_ROW or part != _OTHERS}
        wanted = [part for part, name in parts.items() if bench.wants(name)]
        if not wanted:
            continue
        # Writing is not measured here.
        with Stage(bench.folder, {"synchronous_commit": "off"}) as stage:
            backlog = Backlog(stage, shape, changes)
            for part in wanted:
                if part == _OTHERS:
                    _measure_others(bench, backlog)
                else:
                    bench.compare(shape.name, "rows/s", _fast(backlog, part), transport=part, changes=changes)
    if bench.wants("losses"):
        with Stage(bench.folder) as stage:
            measure_losses(bench, stage)


def _fast(backlog: Backlog, transport: str) -> Readers:
    return {
        OURS: partial(readers.cdc_counter, backlog, transport),
        OUR_SLOT: partial(readers.pg_recvlogical, backlog, transport, SLOT),
        BASE_TABLE: partial(readers.pg_recvlogical, backlog, transport, BASE_PUBLICATION),
    }


def _measure_others(bench: Bench, backlog: Backlog) -> None:
    """Measure the clients of other languages and libraries on the base table, and the pollers, over TCP."""
    some, few = backlog.changes // _SLOW_SHARE, max(1_000, backlog.changes // _SLOWEST_SHARE)
    clients: Readers = {
        "psycopg2, pgoutput": lambda: readers.psycopg2(backlog, "tcp", some),
        "psycopg2, wal2json": lambda: readers.psycopg2(backlog, "tcp", some, "wal2json"),
        "pg-logical-replication (Node)": lambda: readers.pg_logical_replication(backlog, "tcp", some),
        "Debezium (embedded engine)": lambda: readers.debezium(backlog, "tcp", some),
    }
    bench.compare(ONE_ROW.name, "rows/s", clients, transport="tcp", changes=some)
    bench.note_version("psycopg2-binary", python_version_of("psycopg2", "psycopg2-binary"))
    bench.note_version("pydbzengine", python_version_of("debezium", "pydbzengine"))
    bench.note_version("pg-logical-replication", npm_version_of("pg-logical-replication", "pg-logical-replication"))
    slowest = {"pypgoutput": lambda: readers.pypgoutput(backlog, "tcp", few)}
    bench.compare(ONE_ROW.name, "rows/s", slowest, transport="tcp", changes=few)
    bench.note_version("pypgoutput", python_version_of("pypgoutput", "pypgoutput"))
    pollers = {kind: partial(_poll, backlog, kind) for kind in (BY_ID, BY_DELETING)}
    bench.compare(ONE_ROW.name, "rows/s", pollers, transport="tcp", changes=backlog.changes)


def _poll(backlog: Backlog, kind: str) -> float:
    backlog.stage.sql("DROP TABLE IF EXISTS queue")
    backlog.stage.sql("CREATE TABLE queue AS SELECT id, bucket, amount FROM events")
    backlog.stage.sql("ALTER TABLE queue ADD PRIMARY KEY (id)")
    backlog.stage.sql("ANALYZE queue")
    poller = Poller(kind, backlog.stage.dsn, backlog.stage.redis.url, f"poll:{kind}")
    try:
        return poller.drain(backlog.changes)
    finally:
        poller.close()


def charts(figures: Figures) -> Sequence[Chart]:
    """Draw each shape over each transport."""
    drawn = []
    for shape in SHAPES:
        for transport in ("tcp", "unix"):
            found = figures.select(shape.name, transport=transport)
            if found:
                bars = [(figure.peer, figure.spread) for figure in found]
                drawn.append(Bars(_file(shape, transport), _title(shape, transport), "row changes per second", bars))
    return drawn


def _file(shape: Shape, transport: str) -> str:
    return f"{shape.name}-{transport}".replace(",", "").replace(" ", "-")


def _title(shape: Shape, transport: str) -> str:
    return f"{shape.name[0].upper()}{shape.name[1:]}, {'TCP loopback' if transport == 'tcp' else 'Unix socket'}"
