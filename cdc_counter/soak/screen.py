"""How it goes, for whoever watches: a screen on a terminal, lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cdc_counter.soak.record import Record
from cdc_counter.soak.run import Screen
from cdc_counter.soak.writers import Written

_EVENTS: Final = 12
_LINE_SECONDS: Final = 15.0


@contextmanager
def choose_screen(*, quiet: bool) -> Iterator[Screen]:
    """Yield what shows it, fit for where stdout leads; nothing at all when `quiet`."""
    console = Console()
    if quiet:
        yield Silence()
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield LiveScreen(live)
    else:
        yield Lines()


class Silence:
    """Shows nothing."""

    def event(self, after: float, text: str) -> None:
        """Ignore it."""

    def refresh(self, record: Record, written: Written) -> None:
        """Ignore it."""


class Lines:
    """A line per event, and figures now and then."""

    def __init__(self) -> None:
        self._next = _LINE_SECONDS

    def event(self, after: float, text: str) -> None:
        """Print it with its time."""
        click.echo(f"{clock(after)} {text}")

    def refresh(self, record: Record, written: Written) -> None:
        """Print the figures when it is time."""
        if record.seconds >= self._next:
            self._next = record.seconds + _LINE_SECONDS
            click.echo(
                f"{clock(record.seconds)} {', '.join(f'{value} {name}' for name, value in figures(record, written))}"
            )


class LiveScreen:
    """Figures and the last events, drawn anew in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._events: list[tuple[float, str]] = []

    def event(self, after: float, text: str) -> None:
        """Keep it for the next drawing."""
        self._events = [*self._events, (after, text)][-_EVENTS:]

    def refresh(self, record: Record, written: Written) -> None:
        """Draw."""
        self._live.update(self.drawn(record, written), refresh=True)

    def drawn(self, record: Record, written: Written) -> Panel:
        """Return all of it."""
        table = Table.grid(padding=(0, 3))
        shown = figures(record, written)
        for row in range(0, len(shown), 4):
            cells = [Text.assemble((value, "bold"), " ", name) for name, value in shown[row : row + 4]]
            table.add_row(*cells)
        events = Text(
            "\n".join(f"{clock(after)}  {text}" for after, text in self._events), style="dim", overflow="ellipsis"
        )
        end = "" if record.ends is None else f" of {clock(record.ends)}"
        style = "red" if record.findings else "green"
        title = f"soak  {clock(record.seconds)}{end}"
        return Panel(Group(table, Text(""), events), title=title, title_align="left", border_style=style)


def figures(record: Record, written: Written) -> list[tuple[str, str]]:
    """Return names and values worth watching."""
    last = record.samples[-1] if record.samples else None
    lag = "?" if last is None or last.lag is None else f"{last.lag:.1f} s"
    backlog = "?" if last is None or last.backlog is None else f"{last.backlog / 1024:,.0f} KiB"
    return [
        ("checks", f"{record.checks:,}"),
        ("keys", f"{record.keys_compared:,}"),
        ("inconclusive", f"{record.inconclusive.total():,}"),
        ("findings", str(len(record.findings))),
        ("transactions", f"{written.total:,}"),
        ("lag", lag),
        ("backlog", backlog),
        ("counters live", "?" if last is None else str(last.live)),
        ("faults", f"{record.faults.total():,}"),
        ("kinds of them", str(len(record.faults))),
        ("rests", str(record.rests)),
        ("now", record.doing or "all quiet"),
    ]


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
