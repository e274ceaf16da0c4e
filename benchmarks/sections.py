"""The sections by name, each a module or package beside this one, imported when it is wanted."""

from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol, cast

from benchmarks.bench import Bench
from benchmarks.chart import Chart
from benchmarks.figures import Figures
from benchmarks.targets import Target

NAMES: Final = ("drain", "latency", "writers", "readers", "fanout", "growth")
"""A to F of the benchmark, in this order on the page too."""


class Section(Protocol):
    """What a section's module has."""

    TITLE: str
    TARGETS: tuple[Target, ...]

    def run(self, bench: Bench) -> None:
        """Measure, and record every figure."""

    def charts(self, figures: Figures) -> Sequence[Chart]:
        """Return what is to be drawn; fewer where the figures are not there."""


def section(name: str) -> Section:
    """Return a section by its name."""
    return cast("Section", import_module(f"benchmarks.{name}"))
