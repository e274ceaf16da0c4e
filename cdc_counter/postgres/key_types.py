r"""Which types can be keys and sums, and the SQL that turns a key into its one canonical text.

A key's text must be equal exactly when PostgreSQL calls the keys equal, whatever the session's settings; types for
which that can't be had are refused. The formats are those of the README: `\N` for NULL, compact JSON for several
expressions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cdc_counter.core.definition import NO_KEY
from cdc_counter.postgres.rendering import literal_text

LONGEST_KEY: Final = 1024
"""Bytes; a longer text is replaced by its head and its hash, in the truth view and in the triggers alike."""

_HEAD: Final = 200


class KeyKind(Enum):
    """How a type is made canonical."""

    NUMBER = "number"
    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    PLAIN = "plain"
    TEXT = "text"
    DATE = "date"
    TIMESTAMPTZ = "timestamptz"
    BYTES = "bytes"


_KINDS: Final = {
    "int2": KeyKind.NUMBER,
    "int4": KeyKind.NUMBER,
    "int8": KeyKind.NUMBER,
    "oid": KeyKind.NUMBER,
    "numeric": KeyKind.NUMERIC,
    "bool": KeyKind.BOOLEAN,
    "uuid": KeyKind.PLAIN,
    "text": KeyKind.TEXT,
    "varchar": KeyKind.TEXT,
    "bpchar": KeyKind.TEXT,
    "name": KeyKind.TEXT,
    "date": KeyKind.DATE,
    "timestamp": KeyKind.DATE,
    "timestamptz": KeyKind.TIMESTAMPTZ,
    "bytea": KeyKind.BYTES,
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A column's type as the catalog has it, domains resolved. `scale` is None where none is declared."""

    name: str
    is_builtin: bool
    is_enum: bool
    is_deterministic: bool
    scale: int | None


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One raw key column of the rows query, such as `s1` or `b2`."""

    name: str
    kind: KeyKind


def key_kind(column: ColumnType) -> KeyKind | None:
    """Return how a type is made canonical, None when it can't be a key."""
    if column.is_enum:
        return KeyKind.TEXT
    return _KINDS.get(column.name) if column.is_builtin else None


def key_refusal(column: ColumnType) -> tuple[str, str] | None:
    """Return why a type can't be a key and what to do, or None when it can."""
    if column.is_builtin and column.name in {"float4", "float8"}:
        return (
            f"type {column.name} can't be a key: -0 and 0 are equal but are written differently",
            "cast the expression to numeric, for example (expression)::numeric(12,2)",
        )
    if key_kind(column) is None:
        return (
            f"type {column.name} can't be a key: its text is not known to be its equality",
            "cast the expression to a text, integer, numeric, uuid, date or timestamp type",
        )
    if not column.is_deterministic:
        return (
            "its collation calls different texts equal",
            'add COLLATE "C" to the expression, or lower() first and then COLLATE "C"',
        )
    return None


def canonical_key(columns: Sequence[KeyColumn]) -> str:
    """Return the SQL expression for the key text of some raw columns; never NULL."""
    if not columns:
        return f"{literal_text(NO_KEY)}::text"
    if len(columns) == 1:
        return _single(columns[0])
    return "'[' || " + " || ',' || ".join(_json_part(column) for column in columns) + " || ']'"


def _single(column: KeyColumn) -> str:
    text = _text(column)
    if column.kind is KeyKind.TEXT:
        # E'' strings: the same under either setting of standard_conforming_strings
        text = f"CASE WHEN left({text}, 1) = E'\\\\' THEN E'\\\\' || ({text}) ELSE {text} END"
    return f"coalesce({text}, E'\\\\N')"


def _json_part(column: KeyColumn) -> str:
    match column.kind:
        case KeyKind.NUMBER | KeyKind.BOOLEAN:
            part = _text(column)
        case KeyKind.NUMERIC:
            # JSON has no NaN and no infinity: those become strings
            part = (
                f"CASE WHEN {column.name} IN ('NaN', 'Infinity', '-Infinity') "
                f"THEN to_json(({_text(column)})::text)::text ELSE {_text(column)} END"
            )
        case _:
            part = f"to_json({_text(column)})::text"
    return f"coalesce({part}, 'null')"


def _text(column: KeyColumn) -> str:
    name = column.name
    match column.kind:
        case KeyKind.NUMBER | KeyKind.BOOLEAN | KeyKind.PLAIN:
            return f"{name}::text"
        case KeyKind.NUMERIC:
            return _bounded(f"trim_scale({name})::text")
        case KeyKind.TEXT:
            return _bounded(f'{name}::text COLLATE "C"')
        case KeyKind.DATE:
            # to_json writes ISO 8601 under any DateStyle
            return f"(to_json({name}) #>> '{{}}')"
        case KeyKind.TIMESTAMPTZ:
            return (
                f"CASE WHEN isfinite({name}) THEN (to_json({name} AT TIME ZONE 'UTC') #>> '{{}}') || 'Z' "
                f"ELSE to_json({name}) #>> '{{}}' END"
            )
        case KeyKind.BYTES:
            return _bounded(f"encode({name}, 'hex')")


def _bounded(text: str) -> str:
    """Shorten long texts; a short text that looks shortened is hashed too, so that no two keys share one text."""
    return (
        f"CASE WHEN octet_length({text}) > {LONGEST_KEY} "
        f"OR octet_length({text}) > 64 AND {text} ~ '~[0-9a-f]{{64}}$' "
        f"THEN left({text}, {_HEAD}) || '~' || encode(sha256(convert_to({text}, 'UTF8')), 'hex') ELSE {text} END"
    )
