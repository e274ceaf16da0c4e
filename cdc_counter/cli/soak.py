"""`cdc-counter soak`."""

import asyncio
import json
import re
import secrets
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from cdc_counter.cli.program import Invocation, closing, everywhere
from cdc_counter.cli.signals import stop_on_signals
from cdc_counter.errors import ExitCode

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smh]?)\Z")


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m or h."""

    name = "duration"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        match = _DURATION.match(str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90, 10m or 1h", parameter, context)
        return float(match[1]) * _UNITS[match[2]]


class Faults(click.ParamType[Any]):
    """Kinds and groups of faults."""

    name = "faults"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the kinds."""
        from cdc_counter.soak.schedule import GROUPS, FaultKind, kinds_of  # noqa: PLC0415 - help must answer at once

        if isinstance(value, frozenset):
            return value
        try:
            return kinds_of(value)
        except ValueError as error:
            known = ", ".join([*GROUPS, *FaultKind])
            self.fail(f"{error}; choose from {known}", parameter, context)


@click.command(
    short_help="Hunt for drift on servers of its own.",
    epilog=closing(
        "cdc-counter soak",
        "cdc-counter soak --seed 7 --for 1h --report soak-7",
        "cdc-counter soak --config cdc-counter.toml --schema schema.sql",
        "cdc-counter soak --faults daemon_kill,redis_kill --cycles 1000",
        "cdc-counter soak --sum soak-7 --sum soak-8",
        exit_codes="0 every number was equal and everything recovered, 1 something was found, 2 configuration, 3 a "
        "server did not start.",
    ),
)
@click.option(
    "--schema",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="SQL that makes the tables of the configuration, such as pg_dump --schema-only writes.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Fixes what is written and broken.  [default: random]")
@click.option("--for", "seconds", type=Duration(), help="How long: 90, 10m, 1h.  [default: 10m, unless --cycles]")
@click.option("--cycles", type=click.IntRange(min=1), help="End after so many verifications.")
@click.option(
    "--postgres",
    default="embedded",
    show_default=True,
    metavar="WHICH",
    help="embedded, a major version such as 15, or the folder of a server's programs.",
)
@click.option(
    "--faults",
    type=Faults(),
    default="all",
    show_default=True,
    metavar="KINDS",
    help="Comma-separated kinds, or the groups all, passing, rebuilding, none.",
)
@click.option("--fault-pause", type=Duration(), default="7s", show_default=True, help="Mean time between them.")
@click.option("--rate", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Transactions a second.")
@click.option(
    "--report", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help="Where the report goes."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
@click.option(
    "--sum",
    "summed",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Add up earlier reports and print the sums as JSON; runs nothing.",
)
@everywhere
@click.pass_context
def soak(context: click.Context, /, *, summed: tuple[Path, ...], as_json: bool, **options: Any) -> ExitCode:
    """Hunt for drift: random writers, random faults, and verification as fast as it can, in a sandbox.

    Starts a PostgreSQL, a Redis and a daemon just for this; whatever the configuration names, no other server is
    touched. Without --config it counts tables of its own; with --config and --schema it counts and writes yours.

    While it runs every verification must find every number equal. Every few minutes the writers pause and all numbers
    are counted by hand. The first thing that is wrong ends it, with exit code 1 and what was wrong.

    The seed fixes which statements and faults come in which order. How they meet is up to the machine: a second run
    is alike, not the same.
    """
    from cdc_counter.soak.report import add_up, read_report  # noqa: PLC0415 - help must not wait for drivers

    if summed:
        click.echo(json.dumps(add_up(read_report(folder) for folder in summed), indent=2))
        return ExitCode.OK
    invocation = context.find_object(Invocation)
    config = invocation.config if invocation else None
    if (config is None) != (options["schema"] is None):
        raise click.UsageError("--config and --schema belong together: the counters and the tables they count")
    report = asyncio.run(_until_over(config, options, quiet=as_json))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        from cdc_counter.soak.report import lines  # noqa: PLC0415

        click.echo("\n".join(lines(report)))
    return ExitCode.OK if report.passed else ExitCode.FAILED


async def _until_over(config: Path | None, options: dict[str, Any], *, quiet: bool) -> Any:
    from cdc_counter.soak.run import Settings, run_soak  # noqa: PLC0415
    from cdc_counter.soak.screen import choose_screen  # noqa: PLC0415
    from cdc_counter.soak.writers import Load  # noqa: PLC0415

    seed = secrets.randbelow(1_000_000) if options["seed"] is None else options["seed"]
    seconds = options["seconds"]
    if seconds is None and options["cycles"] is None:
        seconds = 600.0
    words = sys.argv[1:] if options["seed"] is not None else [*sys.argv[1:], "--seed", str(seed)]
    settings = Settings(
        config=config,
        schema=options["schema"],
        seed=seed,
        seconds=seconds,
        cycles=options["cycles"],
        postgres=options["postgres"],
        report=options["report"],
        faults=options["faults"],
        mean_pause=options["fault_pause"],
        load=Load(rate=options["rate"]),
        line=shlex.join(["cdc-counter", *words]),
        version=version("cdc-counter"),
    )
    with stop_on_signals() as stop, choose_screen(quiet=quiet) as screen:
        return await run_soak(settings, stop, screen)
