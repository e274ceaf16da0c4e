"""`cdc-counter verify`."""

import asyncio

import click

from cdc_counter.cli.program import closing, configuration, everywhere
from cdc_counter.core.verification import Verdict
from cdc_counter.errors import ExitCode

EXIT_CODES = {
    Verdict.EQUAL: ExitCode.OK,
    Verdict.DRIFT: ExitCode.FAILED,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}


@click.command(
    short_help="Prove every number at one commit.",
    epilog=closing(
        "cdc-counter verify",
        "cdc-counter verify --counter open_by_channel --scope 42",
        "cdc-counter verify --json | jq .verdict",
        exit_codes="0 every key is equal, 1 drift, 4 a server or the running consumer does not answer, 7 could not "
        "tell: run it again.",
    ),
)
@click.option("--counter", "counters", multiple=True, metavar="NAME", help="Only this counter; may be repeated.")
@click.option("--scope", metavar="SCOPE", help="Only this scope.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@everywhere
def verify(*, counters: tuple[str, ...], scope: str | None, as_json: bool) -> ExitCode:
    """Compare every tally with a recount at one exact commit, while writers write and the daemon runs.

    Asks the running daemon through Redis; where none runs, this command streams the slot itself for as long as it
    takes. Nothing is paused and nothing is guessed: a difference is drift only when a second comparison finds exactly
    the same. A counter that is found wrong is stale until `repair`.

    For the first drifted keys it shows the latest transactions that changed them, as far as the outbox still has them.
    """
    config = configuration()
    from cdc_counter import wiring  # noqa: PLC0415 - help must not wait for database drivers
    from cdc_counter.cli.progress import InitDisplay  # noqa: PLC0415 - nor for rich
    from cdc_counter.cli.verification_page import print_verification  # noqa: PLC0415 - nor for rich

    with InitDisplay() as display:
        report = asyncio.run(wiring.verify(config, counters=counters, scope=scope, on_event=display))
    print_verification(report, as_json=as_json)
    return EXIT_CODES[report.verdict]
