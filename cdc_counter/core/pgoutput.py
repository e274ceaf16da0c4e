"""pgoutput, protocol version 1: one message of the output plugin in, one value out.

As the PostgreSQL manual describes them (chapter "Logical Replication Message Formats"). Only what a publication of
inserts can send is read; updates, deletes and streamed (protocol 2) messages are errors, because they would mean that
somebody changed the publication or the session. Whatever the bytes, the answer is a message or a ProtocolError.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdc_counter.core.frames import postgres_to_unix
from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import ProtocolError

_BEGIN: Final = struct.Struct("!QqI")
_COMMIT: Final = struct.Struct("!BQQq")
_INSERT: Final = struct.Struct("!IcH")
_RELATION: Final = struct.Struct("!I")
_COLUMN: Final = struct.Struct("!Ii")
_LENGTH: Final = struct.Struct("!i")
_TRUNCATE: Final = struct.Struct("!IB")
_MESSAGE: Final = struct.Struct("!BQ")

_TEXT: Final = ord("t")
_NULL: Final = ord("n")


@dataclass(frozen=True, slots=True)
class Begin:
    """A committed transaction starts. `commit_lsn` is the start of its commit record, `xid` the low 32 bits."""

    commit_lsn: Lsn
    commit_time: float
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """It ends. `end_lsn` is the end of its commit record: the only LSN of a transaction that may be kept."""

    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time: float


@dataclass(frozen=True, slots=True)
class Relation:
    """The shape of a table, sent before its first row and after it was altered."""

    oid: int
    namespace: str
    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Insert:
    """A row: text values in the relation's column order, None for NULL."""

    relation_oid: int
    values: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Truncate:
    """The published table was truncated although the publication is for inserts."""


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """What somebody wrote with pg_logical_emit_message; anybody may, with any prefix, in whatever encoding."""

    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Ignored:
    """Origin or Type: legal here and without meaning for counters."""

    tag: str


Message = Begin | Commit | Relation | Insert | Truncate | LogicalMessage | Ignored


def parse_message(data: bytes) -> Message:
    """Read one pgoutput message; raises ProtocolError naming the message and the field."""
    tag = data[:1]
    try:
        match tag:
            case b"I":
                oid, values = parse_insert(data)
                return Insert(oid, tuple(values))
            case b"B":
                commit_lsn, time, xid = _exactly(_BEGIN, data, "Begin")
                return Begin(Lsn(commit_lsn), postgres_to_unix(time), xid)
            case b"C":
                _, commit_lsn, end_lsn, time = _exactly(_COMMIT, data, "Commit")
                return Commit(Lsn(commit_lsn), Lsn(end_lsn), postgres_to_unix(time))
            case b"R":
                return _relation(data)
            case b"T":
                return _truncate(data)
            case b"M" | b"O" | b"Y":
                return _logical_message(data) if tag == b"M" else _ignored(data, tag)
            case _:
                raise ProtocolError(f"unexpected pgoutput message {data[:32].hex(' ')!r} of {len(data)} bytes")
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ProtocolError(f"pgoutput message {tag!r} of {len(data)} bytes: {error}") from error


def _exactly(layout: struct.Struct, data: bytes, message: str) -> tuple[int, ...]:
    if len(data) != layout.size + 1:
        raise ProtocolError(f"pgoutput {message} has {len(data)} bytes instead of {layout.size + 1}")
    return layout.unpack_from(data, 1)


def parse_insert(data: bytes, at: int = 0) -> tuple[int, list[bytes | None]]:
    """Read an Insert that starts at `at` and ends with `data`: the relation's OID and the values, None for NULL.

    Raises ProtocolError.
    """
    try:
        oid, kind, count = _INSERT.unpack_from(data, at + 1)
        if kind != b"N":
            raise ProtocolError(f"pgoutput Insert: tuple kind {kind!r} instead of b'N'")
        at += 1 + _INSERT.size
        values: list[bytes | None] = []
        for column in range(count):
            status = data[at]
            at += 1
            if status == _TEXT:
                (length,) = _LENGTH.unpack_from(data, at)
                at += 4
                if length < 0 or at + length > len(data):
                    raise ProtocolError(
                        f"pgoutput Insert: column {column} claims {length} bytes, {len(data) - at} are left"
                    )
                values.append(data[at : at + length])
                at += length
            elif status == _NULL:
                values.append(None)
            else:
                raise ProtocolError(
                    f"pgoutput Insert: column {column} has status {bytes([status])!r} instead of b't' or b'n'"
                )
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"pgoutput Insert of {len(data)} bytes: {error}") from error
    _ends(data, at, "Insert")
    return oid, values


def column_offset(values: Sequence[bytes | None], column: int, at: int = 0) -> int:
    """Return where the text of a column stands in an Insert of these values that starts at `at`."""
    before = sum(1 if value is None else 1 + _LENGTH.size + len(value) for value in values[:column])
    return at + 1 + _INSERT.size + before + 1 + _LENGTH.size


def _relation(data: bytes) -> Relation:
    (oid,) = _RELATION.unpack_from(data, 1)
    namespace, at = _text(data, 1 + _RELATION.size)
    name, at = _text(data, at)
    at += 1  # replica identity: means nothing for inserts
    (count,) = struct.unpack_from("!H", data, at)
    at += 2
    columns: list[str] = []
    for _ in range(count):
        column, at = _text(data, at + 1)  # a byte of flags stands before the name
        _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        columns.append(column)
    _ends(data, at, "Relation")
    # An empty namespace means pg_catalog.
    return Relation(oid, namespace or "pg_catalog", name, tuple(columns))


def _truncate(data: bytes) -> Truncate:
    count, _ = _TRUNCATE.unpack_from(data, 1)
    _ends(data, 1 + _TRUNCATE.size + 4 * count, "Truncate")
    return Truncate()


def _logical_message(data: bytes) -> LogicalMessage:
    end = data.index(b"\0", 1 + _MESSAGE.size)
    prefix, at = data[1 + _MESSAGE.size : end].decode(errors="replace"), end + 1
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    _ends(data, at + length, "Message")
    return LogicalMessage(prefix, data[at:])


def _ignored(data: bytes, tag: bytes) -> Ignored:
    """Check the length only: a message cut short must not pass for one without meaning."""
    if tag == b"O":
        _, at = _text(data, 1 + 8)
    else:
        _, at = _text(data, 1 + 4)
        _, at = _text(data, at)
    _ends(data, at, "Origin" if tag == b"O" else "Type")
    return Ignored(tag.decode())


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _ends(data: bytes, at: int, message: str) -> None:
    if at != len(data):
        raise ProtocolError(f"pgoutput {message}: {len(data)} bytes, its fields end at {at}")
