"""CopyData payloads into an assembly: what a read brought, in one go.

Most transactions are three messages: begin, one row, commit. Such a one is taken at once, without a value for each of
its messages; whatever is not exactly that goes message by message, and fails there if it is wrong.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdc_counter.core.assembly import Assembly
from cdc_counter.core.frames import PrimaryKeepalive, parse_frame, postgres_to_unix
from cdc_counter.core.pgoutput import parse_insert, parse_message

# XLogData and the message in it: the frame's tag, two positions, the server's clock; the message's tag and fields.
# What a transaction of one row needs of them; the rest is skipped.
_BEGIN: Final = struct.Struct("!c24xcQqI")
_COMMIT: Final = struct.Struct("!c16xqcxQQ8x")
_ROW: Final = struct.Struct("!c24xc")
_HEADER: Final = 25
_TAGS: Final = (b"w", b"B", b"w", b"C", b"w", b"I")


@dataclass(frozen=True, slots=True)
class Heard:
    """What a read said beside its transactions: the server's clock in unix seconds, and whether it wants an answer."""

    sent_at: float
    reply_requested: bool


def take(payloads: Sequence[bytes], assembly: Assembly) -> Heard:
    """Feed payloads, at least one, to the assembly; raises ProtocolError or RefusedError as it does."""
    reply_requested = False
    sent_at = 0.0
    at, count = 0, len(payloads)
    while at < count:
        data = payloads[at]
        if len(data) == _BEGIN.size and at + 2 < count and len(payloads[at + 2]) == _COMMIT.size:
            sent = _at_once(data, payloads[at + 1], payloads[at + 2], assembly)
            if sent is not None:
                sent_at = sent
                at += 3
                continue
        frame = parse_frame(data)
        if isinstance(frame, PrimaryKeepalive):
            assembly.idle(frame.wal_end)
            reply_requested |= frame.reply_requested
        else:
            assembly.feed(parse_message(frame.payload))
        sent_at = frame.sent_at
        at += 1
    return Heard(sent_at, reply_requested)


def _at_once(begin: bytes, row: bytes, commit: bytes, assembly: Assembly) -> float | None:
    """Take a transaction of one row; None, and nothing is changed, where that is not what these are."""
    if len(row) < _ROW.size:
        return None
    begin_frame, begin_tag, commit_lsn, time, xid = _BEGIN.unpack(begin)
    commit_frame, sent, commit_tag, closed_lsn, end_lsn = _COMMIT.unpack(commit)
    if (begin_frame, begin_tag, commit_frame, commit_tag, *_ROW.unpack_from(row)) != _TAGS or closed_lsn != commit_lsn:
        return None
    oid, values = parse_insert(row, _HEADER)
    if not assembly.whole(commit_lsn, postgres_to_unix(time), xid, oid, values, end_lsn):
        return None
    return postgres_to_unix(sent)
