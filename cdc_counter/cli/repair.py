"""`cdc-counter repair`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.cli.verify import EXIT_CODES
from cdc_counter.errors import ExitCode


@click.command(
    short_help="Subtract what drift there is.",
    epilog=closing(
        "cdc-counter repair",
        "cdc-counter repair --counter open_by_channel",
        "cdc-counter repair --journal",
        exit_codes="0 every key is equal now, 1 drift is left, 4 a server or the running consumer does not answer, "
        "7 could not tell: run it again.",
    ),
)
@click.option("--counter", "counters", multiple=True, metavar="NAME", help="Only this counter; may be repeated.")
@click.option("--journal", is_flag=True, help="Show what was repaired so far, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@everywhere
def repair(*, counters: tuple[str, ...], journal: bool, as_json: bool) -> ExitCode:
    """Verify, subtract the drift of every wrong key, and verify again.

    All keys of a counter are mended in one step of Redis, which also writes who asked, when, and every old and new
    value into a journal. Writers, the stream and the other counters go on; screens get the corrected values. A counter
    with more wrong keys than stream.max_batch_keys is counted anew instead.
    """
    if journal and counters:
        raise click.UsageError("--journal shows every counter")
    config = configuration()
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.progress import InitDisplay  # noqa: PLC0415 - nor for rich
    from cdc_counter.cli.verification_page import print_journal, print_verification  # noqa: PLC0415 - nor for rich

    if journal:
        print_journal(asyncio.run(wiring.repairs(config)), as_json=as_json)
        return ExitCode.OK
    with InitDisplay() as display:
        report = asyncio.run(wiring.repair(config, counters=counters, on_event=display))
    print_verification(report, as_json=as_json)
    return EXIT_CODES[report.verdict]
