"""The fuse: from when on the disk of the database's server is worth more than our slot.

A slot makes its server keep all WAL since where it stands, for as long as it takes. Above a limit the slot is dropped:
that frees the WAL and loses nothing but time, for everything is counted again at a new slot. The slot must be nobody's
at that moment; whoever streams it lets go first.
"""

from dataclasses import dataclass
from typing import Final

_MEGABYTE: Final = 1 << 20

_SEGMENT: Final = 16 * _MEGABYTE
"""WAL is kept and removed by files of this size: a slot that stands still on a quiet server keeps no file in vain."""


@dataclass(frozen=True, slots=True)
class Fuse:
    """The limits: megabytes of WAL kept, and hours without a move; 0 is none."""

    megabytes: int = 0
    hours: float = 0.0

    @property
    def halved(self) -> "Fuse":
        """Half of the megabytes, rounded up: no limit stays none, and the smallest one stays a limit."""
        return Fuse((self.megabytes + 1) // 2)

    def blown(self, retained: int | None, unmoved: float) -> str:
        """Return why the slot has to go, '' while it may stay; `retained` is bytes, `unmoved` seconds."""
        if retained is None:
            return ""
        kept = f"makes the server keep {retained // _MEGABYTE} MB of WAL"
        if self.megabytes and retained > self.megabytes * _MEGABYTE:
            return f"{kept}, the fuse is {self.megabytes} MB"
        if self.hours and unmoved > self.hours * 3600 and retained >= _SEGMENT:
            return f"{kept} and has not moved for {unmoved / 3600:.1f} h, the fuse is {self.hours:g} h"
        return ""


NO_FUSE: Final = Fuse()
