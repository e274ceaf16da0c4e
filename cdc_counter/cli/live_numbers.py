"""Shows readings as they come: in place on a terminal, a line per change in a pipe, or JSON lines."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cdc_counter.core.reading import CounterState, Reading

Show = Callable[[Reading], None]

_STATE_STYLES: Mapping[CounterState, str] = {
    CounterState.LIVE: "green",
    CounterState.SEEDING: "yellow",
    CounterState.REBUILDING: "yellow",
    CounterState.STALE: "red",
}


@contextmanager
def choose_screen(*, as_json: bool) -> Iterator[Show]:
    """Yield the function that shows the next reading, fit for where stdout leads."""
    console = Console()
    if as_json:
        yield _print_json
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            screen = MovingTable()
            yield lambda reading: live.update(screen.table(reading), refresh=True)
    else:
        yield ChangedLines()


def shown_value(value: int, scale: int) -> str:
    """Return a tally for people: 1234 with scale 2 is 12.34, and thousands are grouped."""
    return f"{Decimal(value).scaleb(-scale):,f}"


class MovingTable:
    """A table that marks what the latest reading changed."""

    def __init__(self) -> None:
        self._previous: Mapping[str, int] = {}

    def table(self, reading: Reading) -> Table:
        """Return the reading as a table: as many buckets as the terminal has lines for, the largest first."""
        # Eight lines go to title, header, borders, footer and the prompt below.
        room = max(3, shutil.get_terminal_size().lines - 8)
        ranked = sorted(reading.values.items(), key=lambda item: (-item[1], item[0]))
        state = Text(reading.state, style=_STATE_STYLES[reading.state])
        title = Text.assemble((reading.counter, "bold"), "  ", reading.scope, "  ", state)
        table = Table(title=title, title_justify="left", caption=f"version {reading.version.version}")
        table.add_column("bucket")
        table.add_column("value", justify="right")
        table.add_column("change", justify="right")
        for bucket, value in ranked[:room]:
            table.add_row(Text(bucket), shown_value(value, reading.scale), self._change(bucket, value, reading.scale))
        if len(ranked) > room:
            table.add_row(Text(f"and {len(ranked) - room:,} more", style="dim"), "", "")
        self._previous = reading.values
        return table

    def _change(self, bucket: str, value: int, scale: int) -> Text:
        if not self._previous or self._previous.get(bucket, 0) == value:
            return Text("")
        delta = value - self._previous.get(bucket, 0)
        sign = "+" if delta > 0 else ""
        return Text(f"{sign}{shown_value(delta, scale)}", style="green" if delta > 0 else "red")


class ChangedLines:
    """`bucket<TAB>value`, first all of them, then each that changed; 0 for one that is gone."""

    def __init__(self) -> None:
        self._previous: Mapping[str, int] = {}

    def __call__(self, reading: Reading) -> None:
        """Print what differs from the reading before."""
        for bucket in sorted({*self._previous, *reading.values}):
            value = reading.values.get(bucket, 0)
            if value != self._previous.get(bucket, 0):
                click.echo(f"{bucket}\t{Decimal(value).scaleb(-reading.scale):f}")
        self._previous = reading.values


def _print_json(reading: Reading) -> None:
    document = {
        "counter": reading.counter,
        "scope": reading.scope,
        "values": dict(reading.values),
        "version": reading.version.version,
        "state": reading.state,
        "epoch": reading.epoch,
        "scale": reading.scale,
    }
    # The standard library's writer: sums may exceed the 64 bits that faster ones stop at.
    click.echo(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
