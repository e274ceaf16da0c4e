"""What a readiness check says about a server: how bad it is, and the exact line that mends it."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error stops `init`; a warning is shown and goes on."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `title` is what, value and where; `remedy` SQL or a configuration line."""

    severity: Severity
    title: str
    remedy: str
