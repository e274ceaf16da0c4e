"""`python -m benchmarks`: measure, keep the figures, judge them, and draw the page."""

import tempfile
import time
from pathlib import Path
from typing import Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.bench import Bench
from benchmarks.evidence import Evidence, Measured
from benchmarks.machine import ROOT, provenance
from benchmarks.page import write_page
from benchmarks.sections import NAMES, section

EVIDENCE: Final = ROOT / "docs/evidence/bench.json"
PAGE: Final = ROOT / "docs/performance.md"
_ROUNDS: Final = {False: 3, True: 2}
"""By whether it is quick."""


@click.command()
@click.argument("names", metavar="[SECTION]...", nargs=-1, type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Small sizes and few rounds: to see that it works.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"[default: {_ROUNDS[False]}; quick: {_ROUNDS[True]}]")
@click.option("--scale", type=click.FloatRange(0, min_open=True), default=1.0, help="Of the full sizes, such as 0.1.")
@click.option("--part", default="", help="Only parts whose name has this text, such as 'one-row' of drain.")
@click.option("--out", type=click.Path(path_type=Path), default=EVIDENCE, help="Where the figures are kept.")
@click.option("--add", is_flag=True, help="Add the rounds to those that the file keeps of the same commit.")
@click.option("--draw", is_flag=True, help="Measure nothing: judge and draw again what is kept.")
def main(
    names: tuple[str, ...],
    *,
    quick: bool,
    rounds: int | None,
    scale: float,
    part: str,
    out: Path,
    add: bool,
    draw: bool,
) -> None:
    """Measure SECTIONs (all: drain, latency, writers, readers, fanout, growth) side by side with their peers.

    A section's figures replace those that the file keeps of it; --add lets a long run be taken in pieces. The page is
    docs/performance.md, or performance.md beside another --out.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        for name in () if draw else names or NAMES:
            measured = _measure(name, progress, quick=quick, rounds=rounds or _ROUNDS[quick], scale=scale, part=part)
            # Saved after each, and read again before: what was measured survives a later section's failure.
            evidence = Evidence.load(out)
            evidence.put(name, measured, add=add)
            evidence.save(out)
    evidence = Evidence.load(out)
    evidence.save(out)
    write_page(evidence, PAGE if out == EVIDENCE else out.with_name("performance.md"))
    for name in names or NAMES:
        for judged in evidence.judgements(name):
            click.echo(f"{name}: {judged.target.measure} {dict(judged.target.conditions)}: {judged.verdict}")


def _measure(name: str, progress: Progress, *, quick: bool, rounds: int, scale: float, part: str) -> Measured:
    told = provenance()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"cdc-counter-bench-{name}-") as folder:
        bench = Bench(name, Path(folder), progress, quick=quick, rounds=rounds, scale=scale, part=part)
        section(name).run(bench)
    told["versions"] |= bench.versions
    return Measured(bench.figures, bench.missing, told, quick, time.monotonic() - began)


if __name__ == "__main__":
    main()
