"""The frames inside CopyBoth: what the walsender sends and what a standby answers.

Bytes in, values out, as the PostgreSQL manual describes them (chapter "Streaming Replication Protocol"). Header LSNs of
XLogData are positions of single changes, neither unique nor monotone: nothing may be derived from them but liveness.
"""

import struct
from dataclasses import dataclass
from typing import Final

from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import ProtocolError

POSTGRES_EPOCH_UNIX: Final = 946_684_800
"""2000-01-01 00:00:00 UTC in unix seconds: PostgreSQL's timestamps on the wire count microseconds from here."""

_XLOG_DATA: Final = struct.Struct("!cQQq")
XLOG_HEADER: Final = _XLOG_DATA.size
"""Bytes of an XLogData frame before the output plugin's message."""

_KEEPALIVE: Final = struct.Struct("!cQqB")
_STATUS: Final = struct.Struct("!cQQQqB")


@dataclass(frozen=True, slots=True)
class XLogData:
    """One message of the output plugin. `sent_at` is the server's clock in unix seconds."""

    sent_at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class PrimaryKeepalive:
    """The server's sign of life. `wal_end` is how far it has decoded and sent, not the end of its WAL."""

    wal_end: Lsn
    sent_at: float
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class StandbyStatusUpdate:
    """What the client tells the walsender; only `flush` moves the slot. All three are end positions."""

    write: Lsn
    flush: Lsn
    apply: Lsn
    reply_requested: bool = False

    def encode(self, now: float) -> bytes:
        """Return the frame; `now` is unix seconds."""
        clock = unix_to_postgres(now)
        return _STATUS.pack(b"r", self.write, self.flush, self.apply, clock, self.reply_requested)


def postgres_to_unix(microseconds: int) -> float:
    """Turn a timestamp from the wire into unix seconds."""
    return POSTGRES_EPOCH_UNIX + microseconds / 1_000_000


def unix_to_postgres(seconds: float) -> int:
    """Turn unix seconds into microseconds since 2000-01-01."""
    return round((seconds - POSTGRES_EPOCH_UNIX) * 1_000_000)


def parse_frame(data: bytes) -> XLogData | PrimaryKeepalive:
    """Read one CopyData payload of the walsender; raises ProtocolError for anything else."""
    tag = data[:1]
    try:
        if tag == b"w":
            _, _, _, sent = _XLOG_DATA.unpack_from(data)
            return XLogData(postgres_to_unix(sent), data[_XLOG_DATA.size :])
        if tag == b"k":
            _, wal_end, sent, reply = _KEEPALIVE.unpack(data)
            return PrimaryKeepalive(Lsn(wal_end), postgres_to_unix(sent), bool(reply))
    except struct.error as error:
        raise ProtocolError(f"replication frame {tag!r} of {len(data)} bytes is cut short or too long") from error
    raise ProtocolError(f"unknown replication frame {data[:32].hex(' ')!r} of {len(data)} bytes")
