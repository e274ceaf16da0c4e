"""What a whole run measures: pieces of the sections, each with the size and rounds that fit into half an hour together.

A piece can be taken again by itself, larger or more often: `python -m benchmarks drain --part losses --rounds 9`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a section, by what its name contains; `scale` is of the section's full sizes."""

    section: str
    part: str = ""
    scale: float = 1.0
    rounds: int = 3


WHOLE: Final = (
    Piece("drain", "losses", rounds=1),
    Piece("drain", "one-row transactions", scale=0.1),
    Piece("drain", "1,000 keys", scale=0.4),
    Piece("drain", " 10 keys", scale=0.4),
    Piece("drain", "one transaction", scale=1.0, rounds=2),
    Piece("latency", "100-per-second"),
    Piece("latency", "1000-per-second"),
    Piece("latency", "3000-per-second", rounds=1),
    Piece("writers", "one-row"),
    Piece("writers", "bulk"),
    Piece("writers", "throughput", rounds=1),
    Piece("readers", rounds=1),
    Piece("fanout", "100-clients", rounds=2),
    Piece("fanout", "1000-clients"),
    Piece("fanout", "5000-clients", rounds=1),
    Piece("growth", "rows", scale=0.3),
    Piece("growth", "keys", rounds=1),
    Piece("growth", "counters", scale=0.3, rounds=1),
    Piece("growth", "an hour down", rounds=1),
    Piece("growth", "open transaction", scale=0.1, rounds=1),
)

QUICK_ROUNDS: Final = 2


def pieces(names: Sequence[str], *, quick: bool) -> list[Piece]:
    """Return what to measure of the sections, each as a whole where it is quick."""
    if quick:
        return [Piece(name, rounds=QUICK_ROUNDS) for name in names]
    return [piece for piece in WHOLE if piece.section in names]


def piece_of_own(name: str, part: str | None, scale: float | None, rounds: int | None, *, quick: bool) -> Piece:
    """Return a piece that was asked for; what was not said of it is as it is for a whole section."""
    return Piece(name, part or "", scale or 1.0, rounds or (QUICK_ROUNDS if quick else Piece(name).rounds))
