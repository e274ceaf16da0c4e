"""The one place that turns what happened into words on stderr and an exit code.

Expected errors are two lines, `error:` and `hint:`. An unexpected one is a defect: one line, and a traceback on
request.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from cdc_counter.config import redacted
from cdc_counter.errors import CdcCounterError, ExitCode

INTERRUPTED: Final = 130
"""What shells report for a program ended by Ctrl-C: 128 + SIGINT."""


def exit_code_of(work: Callable[[], Any], wants_traceback: Callable[[], bool]) -> int:
    """Call `work` and return the process's exit code, having said on stderr what went wrong.

    An integer that `work` returns is the exit code; anything else it returns means success.
    """
    try:
        result = work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last handler of the program: every failure gets words and a code
        return _failed(error, wants_traceback())
    return int(result) if isinstance(result, int) else ExitCode.OK


def complain(error: CdcCounterError) -> None:
    """Write an expected error and its hint to stderr."""
    for line in redacted(str(error)).splitlines():
        # An indented line belongs to the one above: a remedy, to be copied.
        mark = "" if line.startswith(" ") else f"{click.style('error:', fg='red', bold=True)} "
        click.echo(f"{mark}{line}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {redacted(error.hint)}", err=True)


def _aborted(abort: click.exceptions.Abort) -> int:
    if isinstance(abort.__cause__ or abort.__context__, KeyboardInterrupt):
        return INTERRUPTED
    click.echo("nothing was changed", err=True)
    return ExitCode.FAILED


def _failed(error: Exception, traceback_wanted: bool) -> int:
    match error:
        case click.exceptions.Abort():
            return _aborted(error)
        case click.ClickException():
            error.show()
            return error.exit_code
        case OSError(errno=errno.EPIPE):
            return _reader_left()
        case _:
            return _raised(error, traceback_wanted)


def _raised(error: Exception, traceback_wanted: bool) -> int:
    leaves = list(_leaves(error))
    expected = [leaf for leaf in leaves if isinstance(leaf, CdcCounterError)]
    if len(expected) < len(leaves):
        return _unexpected(error, traceback_wanted)
    for leaf in expected:
        complain(leaf)
    if traceback_wanted:
        traceback.print_exception(error)
    return expected[0].exit_code


def _leaves(error: Exception) -> Iterator[Exception]:
    """Yield what a task group gathered, or the error itself."""
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _unexpected(error: Exception, traceback_wanted: bool) -> int:
    if traceback_wanted:
        traceback.print_exception(error)
    what = redacted(f"{type(error).__name__}: {error}")
    click.echo(f"{click.style('error:', fg='red', bold=True)} unexpected {what}", err=True)
    click.echo(f"{click.style('hint:', fg='cyan')} run it again with --debug and report the traceback", err=True)
    return ExitCode.INTERNAL


def _reader_left() -> int:
    """End quietly: the reader of our pipe, such as head, has seen enough."""
    # Python flushes stdout once more at exit and would report the broken pipe again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.FAILED
