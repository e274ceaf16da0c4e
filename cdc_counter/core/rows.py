"""Outbox rows of several transactions, taken apart together by comparing them with a row that came before.

What stands in a row before its transaction identifier, the head, is the same for an hour: the relation, the partition,
and how long the identifier is. A head that is new is read field by field, once. A row with a known head has its
identifier and its deltas in known places, and would be read field by field to the same effect.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cdc_counter.core.frames import XLOG_HEADER
from cdc_counter.core.pgoutput import column_offset, parse_insert
from cdc_counter.errors import ProtocolError

_XID_DIGITS: Final = len(str(2**64))

_HEADS: Final = 64
"""One for each partition of the outbox, and some to spare."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the outbox's columns stand in its rows."""

    xid: int
    deltas: int
    width: int


class Rows:
    """Reads rows of the relations in `shapes`, which is filled by whoever hears of them."""

    def __init__(self, shapes: Mapping[int, Shape]) -> None:
        self._shapes = shapes
        self.forget()

    def forget(self) -> None:
        """Know no head any more: to be called when a shape may have changed."""
        # Of all heads that are known: where the identifier starts, and how long it is.
        self._place = XLOG_HEADER, 0
        self._heads: set[bytes] = set()
        self._fields = _fields(*self._place)

    def read(self, payloads: Sequence[bytes]) -> tuple[list[int], list[bytes]] | None:
        """Return the identifiers, of 64 bits, and the deltas' texts; each payload is CopyData with one row, or may be.

        None where one of them is something else, or a row that is to be read by itself.
        """
        try:
            tags, heads, xids, marks, lengths = zip(*map(self._fields.unpack_from, payloads), strict=True)
            if not self._heads.issuperset(heads):
                self._learn(next(row for row, head in zip(payloads, heads, strict=True) if head not in self._heads))
                tags, heads, xids, marks, lengths = zip(*map(self._fields.unpack_from, payloads), strict=True)
        except (struct.error, ProtocolError):
            self.forget()
            return None
        size = self._fields.size
        texts = [payload[size:] for payload in payloads]
        if (
            {*tags} != {b"w"}
            or not self._heads.issuperset(heads)
            or not b"".join(xids).isdigit()
            or {*marks} != {b"t"}
            or list(lengths) != list(map(len, texts))
        ):
            return None
        return list(map(int, xids)), texts

    def _learn(self, payload: bytes) -> None:
        """Read a row field by field, and know its head from now on; raises ProtocolError."""
        if payload[XLOG_HEADER : XLOG_HEADER + 1] != b"I":
            raise ProtocolError("no row")
        oid, values = parse_insert(payload, XLOG_HEADER)
        shape = self._shapes.get(oid)
        # Columns as init makes them: xid, deltas and no more.
        if shape is None or not len(values) == shape.width == shape.deltas + 1 == shape.xid + 2:
            raise ProtocolError(f"row of relation {oid} can't be taken together with others")
        xid = values[shape.xid]
        if xid is None or not is_xid(xid):
            raise ProtocolError(f"row of relation {oid} has no xid")
        place = column_offset(values, shape.xid, XLOG_HEADER), len(xid)
        if place != self._place or len(self._heads) >= _HEADS:
            self.forget()
            self._place, self._fields = place, _fields(*place)
        self._heads.add(payload[XLOG_HEADER : place[0]])


def is_xid(text: bytes) -> bool:
    """Say whether a row's text is a transaction identifier."""
    return text.isdigit() and len(text) <= _XID_DIGITS


def _fields(start: int, length: int) -> struct.Struct:
    """Lay out the frame's tag, the head, the identifier that starts there, and the deltas' mark and length."""
    return struct.Struct(f"!c{XLOG_HEADER - 1}x{start - XLOG_HEADER}s{length}sci")
