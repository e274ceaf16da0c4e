"""CopyData payloads into an assembly: what a read brought, in one go.

Most transactions are three messages: begin, one row, commit. Those that follow each other are taken together, column by
column, without a value for each of their messages: what one of them costs is a few steps of loops that the interpreter
runs by itself. Whatever is not exactly that goes message by message, and fails there if it is wrong.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdc_counter.core.assembly import Assembly
from cdc_counter.core.frames import XLOG_HEADER, PrimaryKeepalive, parse_frame, postgres_to_unix
from cdc_counter.core.pgoutput import parse_insert, parse_message

# XLogData and the message in it: the frame's tag, two positions, the server's clock; the message's tag and fields.
# What a transaction of one row needs of them; the rest is skipped.
_BEGIN: Final = struct.Struct("!c24xcQqI")
_COMMIT: Final = struct.Struct("!c16xqcxQQ8x")

_ROW: Final = struct.Struct("!c24xc")
_TAGS: Final = (b"w", b"B", b"w", b"C", b"w", b"I")

_SEVERAL: Final = 6
"""Transactions that are worth to be taken together: for fewer, columns take longer than they save."""

_MOST: Final = 256
"""Transactions taken together: if one of them is something else, all are taken once more, by their messages."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a read said beside its transactions: the server's clock in unix seconds, and whether it wants an answer."""

    sent_at: float
    reply_requested: bool


def take(payloads: Sequence[bytes], assembly: Assembly) -> Heard:
    """Feed payloads, at least one, to the assembly; raises ProtocolError or RefusedError as it does."""
    if len(payloads) < 3 * _SEVERAL:
        return _in_turn(payloads, assembly)
    heard: list[Heard] = []
    lengths = list(map(len, payloads))
    at = 0
    while at < len(payloads):
        first = at
        while at < len(payloads) and (until := _alike(payloads, lengths, at)) - at < 3 * _SEVERAL:
            at = max(until, at + 1)
        if first < at:
            heard.append(_in_turn(payloads[first:at], assembly))
        if at < len(payloads):
            run, at = payloads[at:until], until
            heard.append(_together(run, assembly) or _in_turn(run, assembly))
    return Heard(heard[-1].sent_at, any(part.reply_requested for part in heard))


def _alike(payloads: Sequence[bytes], lengths: Sequence[int], at: int) -> int:
    """Return where those payloads end that could be transactions of one row, from `at` on."""
    begin, commit = _BEGIN.size, _COMMIT.size
    end = min(len(lengths), at + 3 * _MOST)
    while at + 2 < end and lengths[at] == begin and lengths[at + 2] == commit:
        # Whoever uses logical messages commits transactions of one of them.
        if payloads[at + 1][XLOG_HEADER : XLOG_HEADER + 1] != b"I":
            break
        at += 3
    return at


def _in_turn(payloads: Sequence[bytes], assembly: Assembly) -> Heard:
    """Take payloads one after the other, and transactions of one row at once."""
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
    oid, values = parse_insert(row, XLOG_HEADER)
    if not assembly.whole(commit_lsn, postgres_to_unix(time), xid, oid, values, end_lsn):
        return None
    return postgres_to_unix(sent)


def _together(payloads: Sequence[bytes], assembly: Assembly) -> Heard | None:
    """Take transactions of one row each; None, and nothing is changed, where these are not that."""
    begins, rows, commits = payloads[0::3], payloads[1::3], payloads[2::3]
    begin_frames, begin_tags, commit_lsns, times, low_xids = zip(*_BEGIN.iter_unpack(b"".join(begins)), strict=True)
    commit_frames, sent, commit_tags, closed_lsns, end_lsns = zip(*_COMMIT.iter_unpack(b"".join(commits)), strict=True)
    tags = {*begin_frames, *commit_frames}, {*begin_tags}, {*commit_tags}
    if tags != ({b"w"}, {b"B"}, {b"C"}) or closed_lsns != commit_lsns:
        return None
    if not assembly.together(commit_lsns, times, low_xids, rows, end_lsns):
        return None
    return Heard(postgres_to_unix(sent[-1]), reply_requested=False)
