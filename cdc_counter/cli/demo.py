"""`cdc-counter demo`."""

import asyncio

import click

from cdc_counter.cli.logs import LogFormat, configure_logging, log_options
from cdc_counter.cli.program import closing, everywhere
from cdc_counter.cli.signals import stop_on_signals
from cdc_counter.errors import ExitCode


@click.command(
    short_help="Show it all on servers of its own.",
    epilog=closing(
        "cdc-counter demo",
        "cdc-counter demo --port 8500",
        exit_codes="0 stopped as asked, 1 a server did not start, 4 the port is taken.",
    ),
)
@click.option("--port", type=click.IntRange(0, 65535), default=8400, show_default=True, help="Of the page; 0 = any.")
@log_options(level="warning")
@everywhere
def demo(*, port: int, log_level: str, log_format: LogFormat) -> ExitCode:
    """Show it: a helpdesk with live numbers on http://127.0.0.1:8400/, on servers of its own.

    Starts a PostgreSQL and a Redis just for this, fills a helpdesk with conversations, installs counters on it and
    lets traffic loose that breaks naive counters. Ctrl-C stops everything and leaves nothing behind.
    """
    configure_logging(log_level, LogFormat(log_format))
    asyncio.run(_until_stopped(port))
    return ExitCode.OK


async def _until_stopped(port: int) -> None:
    from cdc_counter.demo import run_demo  # noqa: PLC0415 - help must not wait for servers' drivers

    with stop_on_signals() as stop:
        await run_demo(stop, port=port, say=click.echo)
