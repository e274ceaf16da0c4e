"""`cdc-counter drop`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.errors import ExitCode


@click.command(
    short_help="Remove everything again.",
    epilog=closing(
        "cdc-counter drop",
        "cdc-counter drop --yes           in scripts",
        exit_codes="0 removed (or nothing was there), 1 not confirmed, 4 unreachable, or the slot is in use.",
    ),
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@everywhere
def drop(*, yes: bool) -> ExitCode:
    """Remove everything that init created: slot, triggers, publication, schema, and the tallies in Redis.

    The slot goes first, so that no WAL is retained whatever happens next. Tables and their rows stay as they are.
    Stop `cdc-counter run` before.
    """
    config = configuration()
    if not yes:
        names = config.postgres
        click.confirm(
            f"Remove slot {names.slot}, publication {names.publication}, schema {names.schema_name} with its "
            f"outbox, all triggers of ours, and the keys {config.redis.prefix}:* of the tallies?",
            abort=True,
        )
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.progress import InitDisplay  # noqa: PLC0415 - nor for rich

    with InitDisplay() as display:
        asyncio.run(wiring.drop(config, on_event=display))
    click.echo("removed")
    return ExitCode.OK
