"""`python -m tests.torture`: strike, compare, and add what was counted to the evidence."""

import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.torture.figures import Figures, load, save, summary
from tests.torture.kind import WANTED, Kind
from tests.torture.run import torture

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs/evidence/torture.json"


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice([kind.value for kind in Kind]))
@click.option("--count", type=click.IntRange(min=1), help="Deaths of each kind.  [default: what is still wanted]")
@click.option("--seed", type=click.IntRange(min=0), help="Fixes what is struck.  [default: random]")
@click.option("--out", type=click.Path(path_type=Path), default=EVIDENCE, help="Where the counts are kept.")
def main(kinds: tuple[str, ...], count: int | None, seed: int | None, out: Path) -> None:
    """Let things die, hundreds of times, and compare every number with an honest recount.

    Without KINDS: all, each until the evidence has as many as a release wants. Exit code 1 when anything was wrong.
    """
    failed = False
    for kind in map(Kind, kinds or Kind):
        runs = load(out)
        wanted = count or WANTED[kind] - summary(runs)[kind]
        if wanted <= 0:
            click.echo(f"{kind}: the evidence has {summary(runs)[kind]} already")
            continue
        figures = Figures(kind, random.randrange(10**6) if seed is None else seed, _commit(), _versions())
        _run(figures, wanted)
        # Read again: another kind may have ended meanwhile.
        save(out, [*load(out), figures])
        click.echo(_told(figures))
        failed |= not figures.passed
    sys.exit(int(failed))


def _run(figures: Figures, count: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="cdc-counter-torture-"))
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(figures.kind, total=count)

        def show(now: Figures) -> None:
            told = f"{now.kind}: {now.comparisons} comparisons, {now.differences} differences"
            progress.update(bar, completed=now.deaths, description=told)

        torture(figures, count, folder, show)
    if figures.passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        click.echo(f"logs are kept in {folder}", err=True)


def _told(figures: Figures) -> str:
    told = (
        f"{figures.kind}: {figures.deaths} deaths in {figures.seconds:.0f} s (seed {figures.seed}),"
        f" {figures.keys_compared} keys compared in {figures.comparisons} comparisons,"
        f" {figures.differences} differences, {figures.epochs_begun} epochs begun"
    )
    return "\n".join([told, *figures.findings])


def _commit() -> str:
    answer = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],  # noqa: S607 - of whoever runs it
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return answer.stdout.strip() or "unknown"


def _versions() -> str:
    postgres, redis = PostgresServer(), RedisServer()
    try:
        return f"PostgreSQL {'.'.join(map(str, postgres.version))}, Redis {'.'.join(map(str, redis.version))}"
    finally:
        postgres.close()
        redis.close()


if __name__ == "__main__":
    main()
