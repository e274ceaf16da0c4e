"""Prints what plan found and apply is going to do: a page for people, or one JSON object."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdc_counter.core.changes import Act, ChangePlan, CounterChange

_STYLES: Final[Mapping[Act, str]] = {
    Act.ADD: "green",
    Act.ALTER: "yellow",
    Act.RECOUNT: "yellow",
    Act.REMOVE: "red",
    Act.KEEP: "dim",
}

_CONSEQUENCES: Final[Mapping[Act, str]] = {
    Act.ADD: "shows nothing until its rows are counted",
    Act.ALTER: "is counted anew; the old numbers stay until then, marked rebuilding",
    Act.RECOUNT: "is counted anew; the old numbers stay until then, marked rebuilding",
    Act.REMOVE: "its tallies are deleted, its subscribers are told",
    Act.KEEP: "",
}


def print_changes(plan: ChangePlan, *, as_json: bool, only_changes: bool = False) -> None:
    """Write the plan to stdout; with `only_changes` neither what is kept nor what to do next."""
    if as_json:
        click.echo(json.dumps(plan.to_json(), ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    shown = [change for change in plan.counters if change.act is not Act.KEEP or not only_changes]
    if shown:
        console.print(_counter_table(shown))
    for line in _lines(plan):
        console.print(Text(line), soft_wrap=True)
    if only_changes:
        return
    if plan.is_empty:
        console.print("nothing to do: what is installed is what is declared")
    else:
        console.print("next: cdc-counter init" if plan.needs_init else "next: cdc-counter apply")


def _counter_table(changes: list[CounterChange]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column()
    for change in changes:
        said = [f"{d.key}: {d.before or 'none'} -> {d.after or 'none'}" for d in change.differences]
        said += [text for text in (change.reason, _CONSEQUENCES[change.act]) if text]
        table.add_row(Text(change.act, style=_STYLES[change.act]), Text(change.counter), Text("\n".join(said)))
    return table


def _lines(plan: ChangePlan) -> Iterator[str]:
    for table in plan.tables:
        yield f"{table.table} is not captured whole:"
        yield from (f"  {reason}" for reason in table.reasons)
    if plan.steps:
        yield "steps on the database:"
        yield from (f"  {step}" for step in plan.steps)
    if plan.slot:
        yield f"the slot {plan.slot} is to be created"
    if not plan.has_tallies:
        yield "redis has no tallies: everything is to be counted"
    for names, what in ((plan.unknown, "does not know"), (plan.forgotten, "still has")):
        if names:
            yield f"redis {what}: {', '.join(names)}"
