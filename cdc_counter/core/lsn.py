"""A position in PostgreSQL's write-ahead log.

Three spellings exist and only this module converts between them: PostgreSQL's `16/B374D848`, 64 bits on the wire, and
the 16 hexadecimal digits stored in Redis and shown as `version`, whose text order is the order of positions
('0/FFFFFFF' < '0/10000000' is false as text).
"""

import re
from typing import Final, Self

from cdc_counter.errors import ProtocolError

_POSTGRES: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")
_VERSION: Final = re.compile(r"[0-9A-F]{16}\Z")
_LIMIT: Final = 1 << 64


class Lsn(int):
    """A log sequence number; compares and subtracts (to bytes) as an integer."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        """Raise ProtocolError unless `value` fits into 64 bits."""
        if not 0 <= value < _LIMIT:
            raise ProtocolError(f"LSN out of range: {value}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's text form, such as `16/B374D848`; raises ProtocolError."""
        match = _POSTGRES.match(text)
        if match is None:
            raise ProtocolError(f"not an LSN: {text!r}")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    @classmethod
    def from_version(cls, text: str) -> Self:
        """Read the 16-digit form kept in Redis; raises ProtocolError."""
        if _VERSION.match(text) is None:
            raise ProtocolError(f"not a version: {text!r}")
        return cls(int(text, 16))

    @property
    def version(self) -> str:
        """The 16 upper-case hexadecimal digits whose text order is the order of positions."""
        return f"{int(self):016X}"

    def __str__(self) -> str:
        return f"{int(self) >> 32:X}/{int(self) & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({self})"


ZERO: Final = Lsn(0)
