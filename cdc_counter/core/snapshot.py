"""A PostgreSQL snapshot as `pg_current_snapshot()` prints it, and the one question asked of it.

Transaction identifiers are 64 bits (`xid8`): they never wrap, so plain comparison is right. Source: the PostgreSQL
manual, "Transaction ID and Snapshot Information Functions".
"""

import re
from dataclasses import dataclass
from typing import Final

from cdc_counter.errors import ProtocolError

_TEXT: Final = re.compile(r"(\d+):(\d+):((?:\d+(?:,\d+)*)?)\Z")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`xmin`: all lower ones are finished; `xmax`: this and higher ones are not; `running`: not finished in between."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read `xmin:xmax:xip_list`; raises ProtocolError."""
        match = _TEXT.match(text)
        if match is None:
            raise ProtocolError(f"not a snapshot: {text!r}")
        running = frozenset(int(xid) for xid in match[3].split(",") if xid)
        return cls(int(match[1]), int(match[2]), running)

    def sees(self, xid: int) -> bool:
        """Say whether a committed top-level transaction is visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    def includes(self, other: "Snapshot") -> bool:
        """Say whether everything that `other` sees is visible here, too: true of every later snapshot of one server."""
        return other.xmax <= self.xmax and all(xid in other.running for xid in self.running if xid < other.xmax)
