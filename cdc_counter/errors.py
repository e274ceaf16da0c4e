"""Every error this project raises on purpose.

Each class says three things a caller needs: whether trying again can help (`retry`), the exit code of a command that
ends with it (`exit_code`) and what the operator should do (`hint`, an imperative sentence). Messages are lower case
and say what, value and where. One place, `cdc_counter.cli`, turns them into output and exit codes.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of every command, as documented in docs/operations.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_READY = 3
    UNREACHABLE = 4
    REFUSED = 5
    RESEED_NEEDED = 6
    INCONCLUSIVE = 7
    INTERNAL = 70


class CdcCounterError(Exception):
    """The root of all errors of this project."""

    retry: ClassVar[bool] = False
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = self.default_hint if hint is None else hint


class ConfigError(CdcCounterError):
    """The configuration file or an environment override can't be used."""

    exit_code = ExitCode.USAGE
    default_hint = "correct the value named above; config/default.toml documents every option"


class DefinitionError(CdcCounterError):
    """A counter as declared can't be kept exact on the table it names."""

    exit_code = ExitCode.USAGE
    default_hint = "correct the counter's declaration"


class NotReadyError(CdcCounterError):
    """A server lacks a setting, a right or an object that is needed; the hint has the exact remedy."""

    exit_code = ExitCode.NOT_READY


class UnreachableError(CdcCounterError):
    """A server can't be reached, or went away; trying again may help."""

    retry = True
    exit_code = ExitCode.UNREACHABLE
    default_hint = "check that the server runs and that its address and credentials (postgres.dsn, redis.url) are right"


class StoppingError(UnreachableError):
    """The server is being stopped, and waits for whoever streams from it."""


class UndecodableError(UnreachableError):
    """The server failed, by an error of its own, to decode what comes next in the slot."""


class BusyError(CdcCounterError):
    """Something is held by somebody else for now: a lock, the slot; trying again may help."""

    retry = True
    exit_code = ExitCode.UNREACHABLE
    default_hint = "wait for the session named above, or end it"


class RefusedError(CdcCounterError):
    """Going on would risk a wrong number: other database, other Redis, altered publication."""

    exit_code = ExitCode.REFUSED


class ReseedNeededError(CdcCounterError):
    """The tallies can't be continued from here: a gap, a lost slot, lost Redis data."""

    exit_code = ExitCode.RESEED_NEEDED
    default_hint = "run 'cdc-counter init --reseed' to rebuild every tally from the tables"


class InconclusiveError(CdcCounterError):
    """A comparison can't be decided with what is still known; never guessed."""

    retry = True
    exit_code = ExitCode.INCONCLUSIVE
    default_hint = "run the command again"


class UnfitTallyError(CdcCounterError):
    """What is stored where a tally belongs is no hash of integers: somebody else wrote it."""

    default_hint = "the counter is rebuilt by 'cdc-counter run'; only cdc-counter may write this key"


class ProtocolError(CdcCounterError):
    """Bytes that are not what the PostgreSQL manual says they are."""

    exit_code = ExitCode.INTERNAL
    default_hint = "report this with the message above; nothing was applied or confirmed"
