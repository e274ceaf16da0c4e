"""Prints a status report: one page for people, or one JSON object."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cdc_counter.core.finding import Severity
from cdc_counter.core.reading import CounterState
from cdc_counter.core.report import StatusReport
from cdc_counter.core.status import Phase, StreamStatus


def print_health(report: StatusReport, *, as_json: bool) -> None:
    """Write the report to stdout."""
    if as_json:
        click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    console.print(_verdict(report))
    if report.stream is not None:
        console.print(_stream_table(report.stream, report.taken_at))
    if report.counters:
        console.print(_counter_table(report))
    for finding in report.findings:
        style = "red" if finding.severity is Severity.ERROR else "yellow"
        console.print(f"[{style}]{finding.severity}[/] {escape(finding.title)}", soft_wrap=True)
        if finding.remedy:
            console.print(f"  {escape(finding.remedy)}", soft_wrap=True)


def shown_bytes(count: int | None) -> str:
    """Return a number of bytes for people: `1.5 MiB`."""
    if count is None:
        return "unknown"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - the binary units' step
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def shown_seconds(seconds: float) -> str:
    """Return a duration for people: `3 ms`, `2.5 s`, `3 min`, `5 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, size, unit, digits in ((120, 1, "s", 1), (7200, 60, "min", 0)):
        if seconds < limit:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 3600:.0f} h"


def _verdict(report: StatusReport) -> Text:
    if report.healthy:
        return Text("healthy", style="bold green")
    return Text.assemble(("not healthy", "bold red"), f": {report.not_ready}" if report.not_ready else "")


def _stream_table(stream: StreamStatus, now: float) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in _stream_rows(stream, now):
        table.add_row(name, Text(value))
    return table


def _stream_rows(stream: StreamStatus, now: float) -> Iterator[tuple[str, str]]:
    started = datetime.fromtimestamp(stream.started_at, UTC)
    yield "consumer", f"{stream.phase} on {stream.host}, pid {stream.pid}, since {started:%Y-%m-%d %H:%M:%S}Z"
    yield "last report", f"{shown_seconds(max(0.0, now - stream.reported_at))} ago"
    # A figure of a stream that has ended would look like the present.
    yield "lag", "unknown" if stream.phase is Phase.STOPPED else shown_seconds(stream.lag)
    yield "backlog", shown_bytes(None if stream.phase is Phase.STOPPED else stream.backlog)
    yield "cycle time", shown_seconds(stream.cycle_seconds)
    yield "received LSN", stream.received
    yield "applied LSN", stream.applied
    yield "confirmed LSN", stream.confirmed
    yield "slot", f"{stream.slot} ({stream.wal_status or 'unknown'})"
    yield "retained WAL", shown_bytes(stream.retained_wal)
    yield "applied", f"{stream.transactions:,} transactions, {stream.deltas:,} deltas since it started"
    yield "epoch", stream.epoch


def _counter_table(report: StatusReport) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("counter")
    table.add_column("state")
    table.add_column("proven exact")
    for counter in report.counters:
        style = (
            "green"
            if counter.state is CounterState.LIVE
            else "red"
            if counter.state is CounterState.STALE
            else "yellow"
        )
        proof = report.verified.get(counter.name)
        ago = "" if proof is None else f"{shown_seconds(max(0.0, report.taken_at - proof.time))} ago, at {proof.lsn}"
        table.add_row(Text(counter.name), Text(counter.state, style=style), ago)
    return table
