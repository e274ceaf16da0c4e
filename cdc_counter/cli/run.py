"""`cdc-counter run`."""

import asyncio
import logging

import click

from cdc_counter.cli.logs import LogFormat, configure_logging, log_options
from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.cli.signals import stop_on_signals
from cdc_counter.config import Config
from cdc_counter.core.events import EventKind, InitEvent
from cdc_counter.core.role import Role
from cdc_counter.errors import ExitCode

_log = logging.getLogger("cdc_counter.run")


@click.command(
    short_help="Keep the numbers exact and push them.",
    epilog=closing(
        "cdc-counter run",
        "cdc-counter run --role consumer --log-format json",
        "cdc-counter run --role gateway",
        exit_codes="0 stopped as asked, 2 configuration, 3 init has not been run or the port is taken, 5 the "
        "servers are not the ones the tallies came from, 6 reseed needed (only with stream.rebuild off).",
    ),
)
@click.option(
    "--role",
    type=click.Choice(list(Role), case_sensitive=False),
    default=Role.ALL.value,
    show_default=True,
    help="What this process does: keep the tallies, push them, or both.",
)
@log_options(level="info")
@everywhere
def run(*, role: Role, log_level: str, log_format: LogFormat) -> ExitCode:
    """Keep the tallies exact and push every change to the screens, until told to stop.

    The consumer streams the slot and applies whole transactions to Redis; the gateway serves HTTP and Socket.IO.
    One consumer per slot; any number of gateways. Lost connections are tried again for ever. It stops by itself
    only where going on would risk a wrong number, and says what to do.

    SIGTERM or Ctrl-C drains what is in flight and ends with exit code 0; a second one kills at once, which loses
    nothing either.
    """
    config = configuration()
    if role is not Role.GATEWAY:
        config.require_counters()
    configure_logging(log_level, LogFormat(log_format))
    asyncio.run(_until_stopped(config, Role(role)))
    return ExitCode.OK


async def _until_stopped(config: Config, role: Role) -> None:
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers

    with stop_on_signals() as stop:
        await wiring.run(config, stop, role=role, on_event=_log_event)
    _log.info("stopped as asked")


def _log_event(event: InitEvent) -> None:
    level = logging.WARNING if event.kind == EventKind.WARNING else logging.INFO
    _log.log(level, "%s", f"{event.title}: {event.detail}" if event.detail else event.title)
