"""What is asked of a running consumer through Redis, and what it answers: plain JSON both ways."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cdc_counter.core.verification import Verification


class Wish(StrEnum):
    """What may be asked for."""

    VERIFY = "verify"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True)
class Request:
    """`counters` empty: all of them. `by` says who asks."""

    id: str
    wish: Wish
    counters: tuple[str, ...]
    scope: str | None
    by: str

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Request":
        """Read back what `to_json` gave; raises TypeError, KeyError or ValueError on foreign data."""
        return cls(**{**data, "wish": Wish(data["wish"]), "counters": tuple(data["counters"])})


@dataclass(frozen=True, slots=True)
class Progress:
    """Work goes on: `done` of about `total` (0: unknown)."""

    counter: str
    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last answer."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The last answer: nothing can be said. `exit_code` is the command's."""

    message: str
    hint: str
    exit_code: int


Answer = Progress | Verification | Finished | Failed


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """Return a dict of one key, the answer's kind."""
    match answer:
        case Verification():
            return {"verification": answer.to_json()}
        case Progress():
            return {"progress": asdict(answer)}
        case Failed():
            return {"failed": asdict(answer)}
        case Finished():
            return {"finished": {}}


def answer_from_json(data: Mapping[str, Any]) -> Answer:
    """Read back what `answer_to_json` gave; raises TypeError, KeyError or ValueError on foreign data."""
    match dict(data):
        case {"verification": dict(fields)}:
            return Verification.from_json(fields)
        case {"progress": dict(fields)}:
            return Progress(**fields)
        case {"failed": dict(fields)}:
            return Failed(**fields)
        case {"finished": dict()}:
            return Finished()
        case _:
            raise ValueError(f"not an answer: {data!r}")
