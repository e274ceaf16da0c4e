"""What a statement of many rows costs: its time, and bytes of WAL, per row."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.bench import Bench
from benchmarks.writers.kinds import CHANGES, COLUMNS, INSERT, MEASURED, ORDER
from benchmarks.writers.session import Session
from benchmarks.writers.tables import BARE, COUNTER, OURS_1, OURS_3, OURS_10, ROWS, Competitor

TIME: Final = "time of a statement per row"
WAL: Final = "WAL of a statement per row"

_COMPETITORS: Final = (BARE, OURS_1, OURS_3, OURS_10, ROWS, COUNTER)

_FIRST_ID: Final = 2_000_000_000

_STATEMENTS: Final[Mapping[str, str]] = {
    INSERT: f"INSERT INTO {{table}} {COLUMNS}"
    " SELECT {first} + i, i % 100, i % 10, i % 7, 'open', 'What somebody has written'"
    " FROM generate_series(0, {rows} - 1) AS i",
    **{kind: f"{change} WHERE id >= {{first}}" for kind, change in CHANGES.items()},
}

LARGE: Final = 100_000


def measure(bench: Bench, dsn: str) -> None:
    """Record time and WAL for every kind of statement, size and competitor."""
    _measure(bench, dsn, _COMPETITORS, 1000, repeats=bench.sized(5, 2))
    # Each of its updates of one row leaves a dead version that the next has to step over: hours for the large ones.
    bench.note_missing(f"{COUNTER.peer}, large statements", "quadratic: every change of a hot row steps over the last")
    large = bench.sized(LARGE, 10_000)
    _measure(bench, dsn, (BARE, OURS_1, OURS_3, OURS_10), large, repeats=1)
    # Ten seconds a turn: one has to do.
    _measure(bench, dsn, (ROWS,), large, repeats=1, rounds=1)


def _measure(
    bench: Bench, dsn: str, competitors: Sequence[Competitor], rows: int, *, repeats: int, rounds: int | None = None
) -> None:
    by_label = {each.label: each for each in competitors}
    with ExitStack() as stack:
        sessions = {each.label: stack.enter_context(Session(dsn)) for each in competitors}
        for label, session in sessions.items():
            _turn(session, by_label[label], 1000, repeats=1)
        for label in bench.turns(f"statements of {rows:,} rows", list(sessions), rounds):
            competitor = by_label[label]
            for statement, (seconds, written) in _turn(sessions[label], competitor, rows, repeats).items():
                peer, counters = competitor.peer, competitor.counters
                bench.record(TIME, peer, "µs", 1e6 * seconds, statement=statement, rows=rows, counters=counters)
                bench.record(WAL, peer, "bytes", written, statement=statement, rows=rows, counters=counters)


def _turn(session: Session, competitor: Competitor, rows: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Run the statements one after the other on the same rows; return seconds and bytes per row of each."""
    seconds: dict[str, float] = defaultdict(float)
    written: dict[str, float] = defaultdict(float)
    for _ in range(repeats):
        for kind in ORDER:
            statement = _STATEMENTS[kind].format(table=competitor.table, first=_FIRST_ID, rows=rows)
            position, began = session.wal_position, time.perf_counter()
            session.run(statement)
            seconds[kind] += time.perf_counter() - began
            written[kind] += session.wal_position - position
    session.run(f"VACUUM {competitor.table}")
    if competitor is ROWS:
        session.run("TRUNCATE row_deltas")
    return {kind: (seconds[kind] / rows / repeats, written[kind] / rows / repeats) for kind in MEASURED}
