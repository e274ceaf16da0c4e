"""Connections to PostgreSQL, and what its errors mean here."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_counter.errors import BusyError, CdcCounterError, NotReadyError, StoppingError, UnreachableError

_SESSION: Final = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
}

_KEEPALIVES: Final = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}
"""A peer that vanished without a word is noticed after 25 s instead of hours."""


_SHUTTING_DOWN: Final = "the database system is shutting down"
"""Translated where the server is; then only a connection that was open is told that the server stops."""

_EACH_HOST: Final = "\n- host: "
"""What psycopg puts before each failure, where it tried several hosts."""


def full_conninfo(conninfo: str, *, purpose: str, connect_timeout: int, settings: dict[str, str] | None = None) -> str:
    """Return `conninfo` with our session settings and an application_name; the user's own `options` stay."""
    given = conninfo_to_dict(conninfo)
    options = " ".join(f"-c {name}={_escaped(value)}" for name, value in {**_SESSION, **(settings or {})}.items())
    own = {
        **_KEEPALIVES,
        "connect_timeout": str(connect_timeout),
        "application_name": f"cdc-counter {purpose}",
        **given,
        # A key with an emoji must not stop the stream because of a PGCLIENTENCODING in somebody's environment, which
        # would go before what stands in `options`.
        "client_encoding": "UTF8",
        "options": f"{given.get('options', '')} {options}".strip(),
    }
    return make_conninfo("", **own)


@asynccontextmanager
async def connected(conninfo: str) -> AsyncIterator[AsyncConnection]:
    """Open an autocommit connection for the duration of a block; raises UnreachableError."""
    connection = await connect(conninfo)
    try:
        yield connection
    finally:
        await connection.close()


async def connect(conninfo: str) -> AsyncConnection:
    """Open an autocommit connection; raises UnreachableError."""
    with translated_errors("connecting"):
        return await AsyncConnection.connect(conninfo, autocommit=True)


@contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Turn psycopg's errors into this project's; `what` says what was tried."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, what) from error


def translate(error: psycopg.Error, what: str) -> CdcCounterError:
    """Return what an error of the server, or of the connection, means."""
    message = f"postgres: {what}: {_words(error)}"
    match error:
        case psycopg.errors.LockNotAvailable() | psycopg.errors.ObjectInUse():
            return BusyError(message)
        case psycopg.errors.InsufficientPrivilege():
            return NotReadyError(message, hint="grant the role the rights listed in docs/operations.md")
        case psycopg.errors.AdminShutdown():
            return StoppingError(message)
        case psycopg.OperationalError() | psycopg.InterfaceError():
            # libpq gives no code for what happens before the connection is open.
            return StoppingError(message) if is_stopping(str(error)) else UnreachableError(message)
        case _:
            return CdcCounterError(message)


def is_stopping(said: str) -> bool:
    """Say whether the server is being stopped; of several hosts, all: the one that we stream from may not be."""
    return all(_SHUTTING_DOWN in host for host in said.split(_EACH_HOST)[1:] or [said])


def _words(error: psycopg.Error) -> str:
    """Return what went wrong in one line: libpq breaks its words into several, and draws where in our SQL."""
    if error.diag.message_primary:
        said = [error.diag.message_primary, error.diag.message_detail or ""]
        return " ".join(" ".join(said).split())
    return " ".join(str(error).split()) or type(error).__name__


def _escaped(value: str) -> str:
    """Escape blanks and backslashes, as libpq's `options` wants them."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
