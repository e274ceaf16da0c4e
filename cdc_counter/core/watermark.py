"""The watermark: through which LSN, and how far into the next transaction, the tallies are complete.

A transaction too large for one script call is applied in parts, each moving `partial` by whole outbox rows. The rows of
a transaction come in the same order whenever it is sent again, so "transaction and number of rows" says exactly where
to go on after a crash.
"""

import re
from dataclasses import dataclass
from typing import Final

from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import ProtocolError

_PARTIAL: Final = re.compile(r"(\d+):(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Partial:
    """The first `rows` outbox rows of transaction `xid` (64 bits) are applied, the rest is not."""

    xid: int
    rows: int

    def __str__(self) -> str:
        return f"{self.xid}:{self.rows}"


@dataclass(frozen=True, slots=True)
class Watermark:
    """`lsn` is an end position: every commit up to it is in the tallies. `partial` None: nothing beyond it is."""

    lsn: Lsn
    partial: Partial | None = None

    @property
    def partial_text(self) -> str:
        """What is stored beside the LSN: `xid:rows`, empty between transactions."""
        return "" if self.partial is None else str(self.partial)

    @classmethod
    def from_stored(cls, version: str, partial: str) -> "Watermark":
        """Read the two stored fields; raises ProtocolError."""
        if not partial:
            return cls(Lsn.from_version(version))
        match = _PARTIAL.match(partial)
        if match is None:
            raise ProtocolError(f"not a partial watermark: {partial!r}")
        return cls(Lsn.from_version(version), Partial(int(match[1]), int(match[2])))
