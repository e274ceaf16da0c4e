"""How it grows."""

from collections.abc import Sequence
from typing import Final

from benchmarks.bench import Bench
from benchmarks.chart import Chart
from benchmarks.figures import OURS, Figures
from benchmarks.targets import Target

TITLE: Final = "How it grows"
TARGETS: Final[tuple[Target, ...]] = ()


def run(bench: Bench) -> None:
    """Measure."""
    bench.note_missing(OURS, "this section is not written yet")


def charts(figures: Figures) -> Sequence[Chart]:  # noqa: ARG001 - not written yet
    """Draw."""
    return ()
