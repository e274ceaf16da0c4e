"""What a one-row statement costs the server: CPU of the process that runs it, and bytes of WAL."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.bench import Bench
from benchmarks.writers.kinds import CHANGES, COLUMNS, INSERT, MEASURED, ORDER
from benchmarks.writers.session import Row, Session
from benchmarks.writers.tables import BARE, COUNTER, OURS_1, OURS_3, OURS_10, ROWS, Competitor

CPU: Final = "server CPU of a one-row statement"
ON_TOP: Final = "server CPU on top of a one-row statement"
WAL: Final = "WAL of a one-row statement"

_COMPETITORS: Final = (BARE, OURS_1, OURS_3, OURS_10, ROWS, COUNTER)

_STATEMENTS: Final[Mapping[str, str]] = {
    INSERT: f"INSERT INTO {{table}} {COLUMNS} VALUES ($1, $2, $3, $4, 'open', 'What somebody has written')",
    **{kind: f"{change} WHERE id = $1" for kind, change in CHANGES.items()},
}

_FIRST_ID: Final = 1_000_000_000


def measure(bench: Bench, dsn: str) -> None:
    """Record CPU, WAL and CPU on top for every kind of statement and every competitor."""
    count, warm_up = bench.sized(1500, 300), bench.sized(300, 100)
    by_label = {each.label: each for each in _COMPETITORS}
    with ExitStack() as stack:
        sessions = {each.label: stack.enter_context(_prepared(dsn, each)) for each in _COMPETITORS}
        for session in sessions.values():
            for kind in ORDER:
                session.run_each(kind, _parameters(kind, warm_up))
        for label in bench.turns("one-row statements", list(sessions)):
            for kind in ORDER:
                _turn(bench, by_label[label], sessions[label], kind, count)
    _record_on_top(bench)


def _prepared(dsn: str, competitor: Competitor) -> Session:
    session = Session(dsn)
    for kind, statement in _STATEMENTS.items():
        session.prepare(kind, statement.format(table=competitor.table))
    return session


def _turn(bench: Bench, competitor: Competitor, session: Session, kind: str, count: int) -> None:
    rows = _parameters(kind, count)
    position, used = session.wal_position, session.cpu_seconds
    session.run_each(kind, rows)
    used = session.cpu_seconds - used
    written = session.wal_position - position
    if kind in MEASURED:
        peer, counters = competitor.peer, competitor.counters
        bench.record(CPU, peer, "µs", 1e6 * used / count, statement=kind, counters=counters)
        bench.record(WAL, peer, "bytes", written / count, statement=kind, counters=counters)


def _record_on_top(bench: Bench) -> None:
    """Record what each competitor's statement costs more than the bare one's of the same round."""
    for figure in bench.figures.select(CPU):
        if figure.peer == BARE.peer:
            continue
        (bare,) = bench.figures.select(CPU, BARE.peer, statement=figure.conditions["statement"])
        for with_counters, without in zip(figure.rounds, bare.rounds, strict=True):
            bench.record(ON_TOP, figure.peer, figure.unit, with_counters - without, **figure.conditions)


def _parameters(kind: str, count: int) -> Sequence[Row]:
    ids = [str(_FIRST_ID + number).encode() for number in range(count)]
    if kind != INSERT:
        return [(each,) for each in ids]
    return [
        (each, *(str(number % some).encode() for some in (100, 10, 7)))
        for number, each in enumerate(ids)
    ]  # fmt: skip
