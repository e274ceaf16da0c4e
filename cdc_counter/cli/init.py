"""`cdc-counter init`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.errors import ExitCode


@click.command(
    short_help="Install the counters and seed them.",
    epilog=closing(
        "cdc-counter init",
        "cdc-counter init --print-sql > migration.sql",
        "cdc-counter init --reseed        counts again when 'run' does not by itself",
        exit_codes="0 installed, 2 a counter can't be declared so, 3 a server is not ready, 4 unreachable or busy, "
        "5 the tallies belong to another database.",
    ),
)
@click.option("--reseed", is_flag=True, help="Rebuild every tally from the tables: a new epoch.")
@click.option("--print-sql", is_flag=True, help="Print the SQL for a DBA to run, change nothing.")
@everywhere
def init(*, reseed: bool, print_sql: bool) -> ExitCode:
    """Install the counters on the database and seed them with the rows that exist.

    Checks both servers first and names the exact remedy for what is missing. Creates a schema with the outbox and
    one truth view per counter, triggers on the counted tables, a publication and a replication slot, then counts
    the existing rows. Writers keep writing: one table at a time is locked for a few milliseconds, never longer than
    postgres.lock_timeout_ms.

    It can be run again at any time: after a crash it goes on where it was, after a change of the configuration it
    does what is missing, and when nothing is missing it says so.
    """
    if print_sql and reseed:
        raise click.UsageError("--print-sql and --reseed exclude each other: seeding is not SQL alone")
    config = configuration()
    config.require_counters()
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.progress import InitDisplay, report_init  # noqa: PLC0415 - nor for rich

    if print_sql:
        click.echo(asyncio.run(wiring.print_sql(config)))
        return ExitCode.OK
    try:
        with InitDisplay() as display:
            report = asyncio.run(wiring.init(config, reseed=reseed, on_event=display))
    except KeyboardInterrupt:
        click.echo("interrupted: run init again to go on where it was, or drop to remove what is there", err=True)
        raise
    report_init(report)
    return ExitCode.OK
