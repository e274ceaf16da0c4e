"""`cdc-counter status`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.errors import ExitCode


@click.command(
    short_help="Is it well? One page of health.",
    epilog=closing(
        "cdc-counter status",
        "cdc-counter status --json | jq .stream.lag",
        exit_codes="0 healthy, 1 not healthy, 4 a server is unreachable.",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@everywhere
def status(*, as_json: bool) -> ExitCode:
    """Show one page of health: the stream, its lag, retained WAL, and the state of every counter."""
    config = configuration()
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.health_page import print_health  # noqa: PLC0415 - nor for rich

    report = asyncio.run(wiring.read_status(config))
    print_health(report, as_json=as_json)
    return ExitCode.OK if report.healthy else ExitCode.FAILED
