"""Log lines on stderr: for people, or one JSON object per line. Passwords in DSNs are masked in both."""

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, ParamSpec, TypeVar

import click
import orjson

from cdc_counter.config import redacted

P = ParamSpec("P")
R = TypeVar("R")

_OWN: Final = "cdc_counter"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogFormat(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


def log_options(*, level: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add `--log-level`, with this default, and `--log-format`."""
    level_option = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default=level,
        show_default=True,
        help="Least level shown.",
    )
    format_option = click.option(
        "--log-format",
        type=click.Choice(list(LogFormat), case_sensitive=False),
        default=LogFormat.TEXT.value,
        show_default=True,
        help="How log lines on stderr look.",
    )
    return lambda function: level_option(format_option(function))


def configure_logging(level: str, style: LogFormat) -> None:
    """Send every log line of this process to stderr; libraries speak up from WARNING only, unless debugging."""
    chosen = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style is LogFormat.JSON else TextLines())
    logging.basicConfig(handlers=[handler], level=max(chosen, logging.WARNING), force=True)
    logging.getLogger(_OWN).setLevel(chosen)


class TextLines(logging.Formatter):
    """`2026-11-20T12:00:00.123Z info    runtime.consumer: message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and a traceback below it where there is one."""
        fields = "".join(f" {name}={value}" for name, value in _extra(record).items())
        logger = record.name.removeprefix(f"{_OWN}.")
        line = f"{_instant(record)} {record.levelname.lower():7} {logger}: {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redacted(line)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, traceback, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        entry: dict[str, Any] = {
            "time": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            entry["traceback"] = redacted(self.formatException(record.exc_info))
        fields = {name: redacted(value) if isinstance(value, str) else value for name, value in _extra(record).items()}
        return orjson.dumps({**fields, **entry}, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _instant(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
