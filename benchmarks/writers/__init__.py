"""What the writers pay for statements of one row and of many, alone and eight at a time, beside triggers made by hand.

No consumer runs meanwhile: it has a core of its own in production, and here it would take the writers' share.
"""

from collections.abc import Sequence
from typing import Final

from benchmarks.bench import Bench
from benchmarks.chart import Bars, Chart
from benchmarks.figures import OURS, Figure, Figures
from benchmarks.stage import Stage
from benchmarks.targets import Target
from benchmarks.writers import bulk, one_row, throughput
from benchmarks.writers.kinds import COUNTING_UPDATE, DELETE, INSERT, MEASURED, OTHER_UPDATE
from benchmarks.writers.tables import NO_TRIGGER, make

TITLE: Final = "What the writers pay"

TARGETS: Final = (
    *(
        Target(one_row.ON_TOP, {"statement": statement, "counters": 3}, at_most=12)
        for statement in (INSERT, COUNTING_UPDATE, DELETE)
    ),
    Target(one_row.ON_TOP, {"statement": OTHER_UPDATE, "counters": 3}, at_most=6),
    *(
        Target(
            bulk.TIME,
            {"statement": statement, "rows": bulk.LARGE, "counters": 3},
            to=NO_TRIGGER,
            to_conditions={"statement": statement, "rows": bulk.LARGE},
            at_most=1.4,
        )
        for statement in MEASURED
    ),
)


def run(bench: Bench) -> None:
    """Measure."""
    rows = bench.sized(100_000, 10_000)
    with Stage(bench.folder) as stage:
        make(stage, rows)
        if bench.wants("one-row"):
            one_row.measure(bench, stage.dsn)
        if bench.wants("bulk"):
            bulk.measure(bench, stage.dsn)
        if bench.wants("throughput"):
            throughput.measure(bench, stage.postgres, rows)


def charts(figures: Figures) -> Sequence[Chart]:
    """Draw CPU on top of one row, the time of a large statement, and what eight writers get through."""
    rows = max((int(figure.conditions["rows"]) for figure in figures.select(bulk.TIME)), default=0)
    update = COUNTING_UPDATE
    inserts = figures.select(throughput.THROUGHPUT, statement=INSERT, synchronous_commit="off")
    drawn = (
        ("one-row", f"{one_row.ON_TOP}: {update}", figures.select(one_row.ON_TOP, statement=update)),
        ("bulk", f"{bulk.TIME}: {update}, {rows:,} rows", figures.select(bulk.TIME, statement=update, rows=rows)),
        ("spread", f"{throughput.THROUGHPUT}: inserts, many keys", inserts.select(keys=throughput.SPREAD)),
        ("hot", f"{throughput.THROUGHPUT}: inserts, one key", inserts.select(keys=throughput.HOT)),
    )
    return [
        Bars(name, title, found[0].unit, [(_label(each), each.spread) for each in found])
        for name, title, found in drawn
        if found
    ]


def _label(figure: Figure) -> str:
    return f"{OURS}, {figure.conditions['counters']} counters" if figure.peer == OURS else figure.peer
