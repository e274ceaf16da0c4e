"""Shows what init and drop tell: progress bars on a terminal, plain lines anywhere else. All of it on stderr."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from cdc_counter.core.events import EventKind, InitEvent, InitReport

_MARKS: Mapping[str, str] = {
    EventKind.CHECK: "[green]ok[/]",
    EventKind.STEP: "[green]done[/]",
    EventKind.WARNING: "[yellow]warning[/]",
    EventKind.WAITING: "[yellow]waiting[/]",
    EventKind.PROGRESS: "[cyan]...[/]",
}

_PLAIN_STEP = 10
"""Without a terminal, a progress line every so many per cent is enough for a log."""

_WAITING_AGAIN = 5.0
"""Seconds before a wait that goes on is named once more: it may last hours, and looks come several times a second."""


class InitDisplay:
    """A context manager to be called with each event."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, int] = {}
        self._clock = clock
        self._waits: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def __call__(self, event: InitEvent) -> None:
        """Show one event."""
        if event.kind == EventKind.WAITING and not self._names_wait(event.title):
            return
        if event.kind != EventKind.PROGRESS:
            self._finish(event.title)
            self._line(event)
        elif self._console.is_terminal:
            self._move(event)
        elif self._is_due(event):
            self._line(event)

    def _line(self, event: InitEvent) -> None:
        mark = _MARKS.get(event.kind, escape(event.kind))
        amount = _amount(event)
        text = f"{escape(event.title)}{amount}"
        if event.detail:
            # A remedy is a line to copy.
            text += "\n  " if event.kind == EventKind.WARNING else "  "
            text += f"[dim]{escape(event.detail)}[/]"
        self._console.print(f"{mark} {text}", soft_wrap=True)

    def _move(self, event: InitEvent) -> None:
        task = self._tasks.get(event.title)
        if task is None:
            task = self._tasks[event.title] = self._progress.add_task(escape(event.title), total=event.total)
        phase = f": {event.detail}" if event.detail else ""
        text = escape(f"{event.title}{phase}{_amount(event)}")
        self._progress.update(task, description=text, completed=event.done or 0, total=event.total)

    def _finish(self, title: str) -> None:
        task = self._tasks.pop(title, None)
        if task is not None:
            self._progress.remove_task(task)

    def _names_wait(self, title: str) -> bool:
        now = self._clock()
        if title in self._waits and now < self._waits[title] + _WAITING_AGAIN:
            return False
        self._waits[title] = now
        return True

    def _is_due(self, event: InitEvent) -> bool:
        if event.done is None and not event.detail:
            return False  # the line that says it is done will do
        share = 100 * (event.done or 0) // event.total if event.total else 0
        due = event.title not in self._shown or share - self._shown[event.title] >= _PLAIN_STEP
        if due:
            self._shown[event.title] = share
        return due


def report_init(report: InitReport) -> None:
    """Say on stdout what init came to."""
    names = ", ".join(report.counters)
    if report.changed == 0 and not report.seeded:
        click.echo(f"nothing to do: {names} installed and seeded")
        return
    click.echo(f"installed: {names}")
    if report.seeded:
        click.echo(f"seeded: {', '.join(report.seeded)}")
    click.echo("next: cdc-counter run")


def report_apply(report: InitReport) -> None:
    """Say on stdout what apply came to."""
    if report.changed == 0 and not report.seeded:
        click.echo("nothing to do: what is installed is what is declared")
        return
    if report.removed:
        click.echo(f"removed: {', '.join(report.removed)}")
    if report.seeded:
        click.echo(f"counted: {', '.join(report.seeded)}")
    click.echo(f"live: {', '.join(report.counters)}")


def _amount(event: InitEvent) -> str:
    if event.done is None:
        return ""
    return f" {event.done:,} of {event.total:,}" if event.total is not None else f" {event.done:,}"
