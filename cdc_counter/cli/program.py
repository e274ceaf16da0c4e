"""The root command and the options that every command takes, before or after the command's name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from cdc_counter.cli.outcome import exit_code_of
from cdc_counter.config import Config, load

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class Invocation:
    """What the options of one command line said, wherever they stood."""

    config: Path | None = None
    debug: bool = False


def everywhere(function: Callable[P, R]) -> Callable[P, R]:
    """Add `--config` and `--debug`, which mean the same before and after the command's name."""
    config = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_remember,
        help="Configuration file.  [default: $CDC_COUNTER_CONFIG, then cdc-counter.toml]",
    )
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Show a traceback when something unexpected fails.",
    )
    return config(debug(function))


def configuration() -> Config:
    """Return the configuration that the current command line names; raises ConfigError."""
    invocation = click.get_current_context().find_object(Invocation)
    return load(invocation.config if invocation else None)


def closing(*examples: str, exit_codes: str) -> str:
    """Return the end of a help text: examples as they are, exit codes as a paragraph."""
    lines = "\n".join(f"  {example}" for example in examples)
    # A paragraph that opens with a backspace is printed by click as it is.
    return f"\b\nExamples:\n{lines}\n\nExit codes: {exit_codes}"


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    invocation = context.ensure_object(Invocation)
    # Called for the root first, then for the command: what stands nearer to the command's own options wins.
    if value and parameter.name:
        setattr(invocation, parameter.name, value)


class Program(click.Group):
    """A group whose every failure ends in one place: words on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; ends the process unless `standalone_mode` is off."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        invocation = Invocation()

        def work() -> Any:
            return self.main(args, prog_name, complete_var, standalone_mode=False, **{"obj": invocation, **extra})

        raise SystemExit(exit_code_of(work, lambda: invocation.debug))

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the commands in the order in which one needs them."""
        return list(self.commands)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=closing(
        "cdc-counter demo",
        "cdc-counter init && cdc-counter run",
        exit_codes="0 done, 1 failed or unhealthy, 2 usage or configuration, 3 a server is not ready, 4 unreachable or "
        "busy, 5 refused, 6 reseed needed, 7 inconclusive, 70 internal error, 130 interrupted.",
    ),
)
@click.version_option(version("cdc-counter"), prog_name="cdc-counter")
@everywhere
def program() -> None:
    """Live counters for PostgreSQL that are exact and reach every screen within milliseconds of the commit.

    Declare counters in cdc-counter.toml, install them with init, keep them with run.
    """
