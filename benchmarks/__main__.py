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
from benchmarks.plan import Piece, piece_of_own, pieces
from benchmarks.sections import NAMES, section

EVIDENCE: Final = ROOT / "docs/evidence/bench.json"
PAGE: Final = ROOT / "docs/performance.md"


@click.command()
@click.argument("names", metavar="[SECTION]...", nargs=-1, type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Small sizes and few rounds: to see that it works.")
@click.option("--rounds", type=click.IntRange(min=1), help="How often each peer has its turn.")
@click.option("--scale", type=click.FloatRange(0, min_open=True), help="Of the full sizes, such as 0.1.")
@click.option("--part", help="Only parts whose name has this text, such as 'one-row' of drain.")
@click.option("--out", type=click.Path(path_type=Path), default=EVIDENCE, help="Where the figures are kept.")
@click.option("--add", is_flag=True, help="Add the rounds to those that the file keeps of the same commit.")
@click.option("--draw", is_flag=True, help="Measure nothing: judge and draw again what is kept.")
def main(
    names: tuple[str, ...],
    *,
    quick: bool,
    rounds: int | None,
    scale: float | None,
    part: str | None,
    out: Path,
    add: bool,
    draw: bool,
) -> None:
    """Measure SECTIONs (all: drain, latency, writers, readers, fanout, growth) side by side with their peers.

    They are taken in pieces, with sizes and rounds that fit into half an hour together; with --part, --scale or
    --rounds each section is one piece, of its full size where --scale does not say otherwise. A section's figures
    replace those that the file keeps of it; --add lets a long run be taken in pieces of one's own. The page is
    docs/performance.md, or performance.md beside another --out.
    """
    names = names or NAMES
    own = (part, scale, rounds) != (None, None, None)
    planned = (
        [piece_of_own(name, part, scale, rounds, quick=quick) for name in names] if own else pieces(names, quick=quick)
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        begun: set[str] = set()
        failed: list[Piece] = []
        for piece in () if draw else planned:
            try:
                measured = _measure(piece, progress, quick=quick)
            except Exception:  # noqa: BLE001 - whatever it was, the other pieces are worth their half hour
                failed.append(piece)
                progress.console.print_exception()
                continue
            # Saved after each, and read again before.
            evidence = Evidence.load(out)
            evidence.put(piece.section, measured, add=add or piece.section in begun)
            evidence.save(out)
            begun.add(piece.section)
    evidence = Evidence.load(out)
    evidence.save(out)
    write_page(evidence, PAGE if out == EVIDENCE else out.with_name("performance.md"))
    for name in names:
        for judged in evidence.judgements(name):
            click.echo(f"{name}: {judged.target.measure} {dict(judged.target.conditions)}: {judged.verdict}")
    if failed:
        raise click.ClickException(
            f"not measured, see above: {', '.join(f'{each.section} {each.part}' for each in failed)}"
        )


def _measure(piece: Piece, progress: Progress, *, quick: bool) -> Measured:
    told = provenance()
    began = time.monotonic()
    name = piece.section
    with tempfile.TemporaryDirectory(prefix=f"cdc-counter-bench-{name}-") as folder:
        bench = Bench(
            name, Path(folder), progress, quick=quick, rounds=piece.rounds, scale=piece.scale, part=piece.part
        )
        section(name).run(bench)
    told["versions"] |= bench.versions
    return Measured(bench.figures, bench.missing, told, quick, time.monotonic() - began)


if __name__ == "__main__":
    main()
