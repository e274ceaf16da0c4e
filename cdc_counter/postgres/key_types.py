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

_NEVER_SHORTENED: Final = 64
"""Bytes of the longest text that can't look shortened: it would end in `~` and 64 digits."""


class KeyKind(Enum):
    """How a type is made canonical."""

    INTEGER = "integer"
    OID = "oid"
    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    PLAIN = "plain"
    TEXT = "text"
    DATE = "date"
    TIMESTAMPTZ = "timestamptz"
    BYTES = "bytes"


_KINDS: Final = {
    "int2": KeyKind.INTEGER,
    "int4": KeyKind.INTEGER,
    "int8": KeyKind.INTEGER,
    "oid": KeyKind.OID,
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

_ANY_LENGTH: Final = frozenset({KeyKind.NUMERIC, KeyKind.TEXT, KeyKind.BYTES})


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
    if len(columns) == 1 and columns[0].kind is KeyKind.TEXT:
        text = _bounded_text(columns[0])
        return _not_null(f"CASE WHEN {_with_backslash(text)} THEN E'\\\\' || ({text}) ELSE {text} END")
    return _key(columns, [_bounded_text(column) for column in columns])


def is_small(column: KeyColumn) -> bool:
    """Say whether the type bounds what a value can take."""
    return column.kind not in _ANY_LENGTH


def quick_key(columns: Sequence[KeyColumn]) -> str:
    """Return a much shorter expression with the same value, where no column has a `quick_key_refusal` that holds."""
    return _key(columns, [_text(column) for column in columns])


def digits_key(columns: Sequence[KeyColumn]) -> str | None:
    r"""Return an expression for what stands between the quotes in JSON; None where it isn't always digits or `\N`."""
    if len(columns) != 1 or columns[0].kind is not KeyKind.INTEGER:
        return None
    # There is no such operator for a text: should the column have become one since, the query fails.
    return f"coalesce(({columns[0].name} | 0)::text, E'\\\\\\\\N')"


def quick_key_refusal(column: KeyColumn) -> str | None:
    """Return the SQL condition under which only `canonical_key` is right; None where there is none."""
    if column.kind not in _ANY_LENGTH:
        return None
    text = _text(column)
    long = f"octet_length({text}) > {_NEVER_SHORTENED}"
    return f"{long} OR {_with_backslash(text)}" if column.kind is KeyKind.TEXT else long


def _key(columns: Sequence[KeyColumn], texts: Sequence[str]) -> str:
    if not columns:
        return f"{literal_text(NO_KEY)}::text"
    if len(columns) == 1:
        return _not_null(texts[0])
    parts = (_json_part(column, text) for column, text in zip(columns, texts, strict=True))
    return "'[' || " + " || ',' || ".join(parts) + " || ']'"


def _not_null(text: str) -> str:
    return f"coalesce({text}, E'\\\\N')"


def _with_backslash(text: str) -> str:
    # E'' strings: the same under either setting of standard_conforming_strings
    return f"left({text}, 1) = E'\\\\'"


def _json_part(column: KeyColumn, text: str) -> str:
    match column.kind:
        case KeyKind.INTEGER | KeyKind.OID | KeyKind.BOOLEAN:
            part = text
        case KeyKind.NUMERIC:
            # JSON has no NaN and no infinity: those become strings
            part = (
                f"CASE WHEN {column.name} IN ('NaN', 'Infinity', '-Infinity') "
                f"THEN to_json(({text})::text)::text ELSE {text} END"
            )
        case _:
            part = f"to_json({text})::text"
    return f"coalesce({part}, 'null')"


def _text(column: KeyColumn) -> str:
    name = column.name
    match column.kind:
        case KeyKind.INTEGER | KeyKind.OID | KeyKind.BOOLEAN | KeyKind.PLAIN:
            return f"{name}::text"
        case KeyKind.NUMERIC:
            return f"trim_scale({name})::text"
        case KeyKind.TEXT:
            return f'{name}::text COLLATE "C"'
        case KeyKind.DATE:
            # to_json writes ISO 8601 under any DateStyle
            return f"(to_json({name}) #>> '{{}}')"
        case KeyKind.TIMESTAMPTZ:
            return (
                f"CASE WHEN isfinite({name}) THEN (to_json({name} AT TIME ZONE 'UTC') #>> '{{}}') || 'Z' "
                f"ELSE to_json({name}) #>> '{{}}' END"
            )
        case KeyKind.BYTES:
            return f"encode({name}, 'hex')"


def _bounded_text(column: KeyColumn) -> str:
    """Shorten long texts; a short text that looks shortened is hashed too, so that no two keys share one text."""
    text = _text(column)
    if column.kind not in _ANY_LENGTH:
        return text
    return (
        f"CASE WHEN octet_length({text}) > {LONGEST_KEY} "
        f"OR octet_length({text}) > {_NEVER_SHORTENED} AND {text} ~ '~[0-9a-f]{{64}}$' "
        f"THEN left({text}, {_HEAD}) || '~' || encode(sha256(convert_to({text}, 'UTF8')), 'hex') ELSE {text} END"
    )
