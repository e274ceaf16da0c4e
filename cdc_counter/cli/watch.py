"""`cdc-counter watch`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.config import Config
from cdc_counter.core.definition import NO_KEY
from cdc_counter.errors import ExitCode


@click.command(
    short_help="Show live numbers in the terminal.",
    epilog=closing(
        "cdc-counter watch open_by_channel 42",
        "cdc-counter watch amount_by_shop --json",
        exit_codes="2 no such counter, 4 Redis is unreachable, 130 ended by Ctrl-C.",
    ),
)
@click.argument("counter")
@click.argument("scope", default=NO_KEY)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per change.")
@everywhere
def watch(*, counter: str, scope: str, as_json: bool) -> ExitCode:
    """Show the live numbers of COUNTER in SCOPE until Ctrl-C.

    SCOPE is left out for a counter that has none. In a terminal the numbers move in place; in a pipe each change is
    one line, `bucket<TAB>value`, 0 for a bucket that is gone.
    """
    asyncio.run(_show(configuration(), counter, scope, as_json))
    return ExitCode.OK


async def _show(config: Config, counter: str, scope: str, as_json: bool) -> None:
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.live_numbers import choose_screen  # noqa: PLC0415 - nor for rich
    from cdc_counter.cli.readings import checked_scope, readings  # noqa: PLC0415 - as above

    source = wiring.source(config)
    try:
        scope = checked_scope(await source.counter(counter), counter, scope, config.counters)
        with choose_screen(as_json=as_json) as show:
            async for reading in readings(source, counter, scope):
                show(reading)
    finally:
        await source.aclose()
