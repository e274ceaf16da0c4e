"""Prints what verify and repair found: tables for people, or one JSON object."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdc_counter.cli.health_page import shown_seconds
from cdc_counter.core.verification import Verdict, Verification, VerifyReport

_STYLES: Final[Mapping[Verdict, str]] = {
    Verdict.EQUAL: "green",
    Verdict.DRIFT: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
}


def print_verification(report: VerifyReport, *, as_json: bool) -> None:
    """Write the report to stdout."""
    if as_json:
        click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    console.print(_overview(report.verifications))
    for verification in report.verifications:
        if verification.reason:
            console.print(Text(f"{verification.counter}: {verification.reason}"), soft_wrap=True)
        if verification.drifts:
            _print_drift(console, report, verification)
    if report.verdict is Verdict.DRIFT:
        console.print("next: cdc-counter repair")


def print_journal(entries: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Write the journal of repairs to stdout, newest first."""
    if as_json:
        click.echo(json.dumps(list(entries), ensure_ascii=False, indent=2))
        return
    if not entries:
        click.echo("nothing was repaired so far")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("when", "counter", "by", "scope", "bucket", "old", "new"):
        table.add_column(name, justify="right" if name in {"old", "new"} else "left")
    for entry in entries:
        when = datetime.fromtimestamp(entry["at"], UTC)
        for scope, bucket, old, new in entry["changes"]:
            columns = (f"{when:%Y-%m-%d %H:%M:%S}Z", entry["counter"], entry["by"], scope, bucket, old, new)
            table.add_row(*(Text(str(column)) for column in columns))
    Console(highlight=False).print(table)


def _overview(verifications: Sequence[Verification]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("counter", "verdict", "keys", "drift", "at LSN", "took"):
        table.add_column(name, justify="right" if name in {"keys", "drift", "took"} else "left")
    for one in verifications:
        verdict = f"{one.verdict}, {one.repaired:,} repaired" if one.repaired else one.verdict
        table.add_row(
            Text(one.counter if one.scope is None else f"{one.counter} {one.scope}"),
            Text(verdict, style=_STYLES[one.verdict]),
            f"{one.keys:,}",
            f"{one.drifted:,}",
            one.lsn,
            shown_seconds(one.seconds),
        )
    return table


def _print_drift(console: Console, report: VerifyReport, verification: Verification) -> None:
    table = Table(box=None, pad_edge=False, title=f"drift of {verification.counter}", title_justify="left")
    for name in ("scope", "bucket", "tally", "truth", "difference", "touched lately by (transaction: delta)"):
        table.add_column(name, justify="right" if name in {"tally", "truth", "difference"} else "left")
    for key in verification.drifts:
        entries = report.ledger.get((verification.counter, key.scope, key.bucket), ())
        touched = ", ".join(f"{entry.xid}: {entry.delta:+,}" for entry in entries)
        numbers = (f"{key.tally:,}", f"{key.truth:,}", f"{key.difference:+,}")
        table.add_row(Text(key.scope), Text(key.bucket), *numbers, touched)
    console.print(table)
    if verification.drifted > len(verification.drifts):
        console.print(f"and {verification.drifted - len(verification.drifts):,} more")
