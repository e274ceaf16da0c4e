"""`cdc-counter plan`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.errors import ExitCode


@click.command(
    short_help="What would apply change?",
    epilog=closing(
        "cdc-counter plan",
        "cdc-counter plan --json | jq '.counters[] | select(.act != \"keep\")'",
        "cdc-counter plan --sql",
        exit_codes="0 nothing to do, 1 there are changes to make, 2 a counter can't be declared so, 4 unreachable, "
        "5 the tallies belong to another database.",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@click.option("--sql", "as_sql", is_flag=True, help="The SQL of the database's part, for a DBA to read.")
@everywhere
def plan(*, as_json: bool, as_sql: bool) -> ExitCode:
    """Show what differs between the configuration and what is installed, and what apply would do about it.

    Counters to be added, altered, recounted or removed; tables whose triggers or partitions need mending, and why;
    every step on the database. Changes nothing and locks nothing.
    """
    if as_json and as_sql:
        raise click.UsageError("--json and --sql exclude each other")
    config = configuration()
    config.require_counters()
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.changes_page import print_changes  # noqa: PLC0415 - nor for rich

    changes = asyncio.run(wiring.plan(config))
    if as_sql:
        click.echo(asyncio.run(wiring.print_sql(config)))
    else:
        print_changes(changes, as_json=as_json)
    return ExitCode.OK if changes.is_empty else ExitCode.FAILED
