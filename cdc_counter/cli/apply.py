"""`cdc-counter apply`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.errors import ExitCode


@click.command(
    short_help="Change the counters of a running system.",
    epilog=closing(
        "cdc-counter plan && echo nothing to do",
        "cdc-counter apply",
        exit_codes="0 everything is as declared and live, 2 a counter can't be declared so, 3 nothing is installed or "
        "a server is not ready, 4 unreachable or busy, 5 the tallies belong to another database.",
    ),
)
@everywhere
def apply() -> ExitCode:
    """Bring the counters to what the configuration says, while cdc-counter run goes on.

    Says what it is going to do, then does it: new counters show nothing until they are counted, altered ones keep
    their old numbers, marked as rebuilding, until the new ones take their place, removed ones are gone at once. All
    other counters go on, nothing is restarted, and writers are held up as little as by init.

    It returns when every counter is live. Interrupted, the rest is done by the running daemon, or by the next apply.
    """
    config = configuration()
    config.require_counters()
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.changes_page import print_changes  # noqa: PLC0415 - nor for rich
    from cdc_counter.cli.progress import InitDisplay, report_apply  # noqa: PLC0415

    with InitDisplay() as display:
        report = asyncio.run(
            wiring.apply(config, display, lambda changes: print_changes(changes, as_json=False, only_changes=True))
        )
    report_apply(report)
    return ExitCode.OK
