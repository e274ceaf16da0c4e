"""Which values a column is given: few, so that rows meet in the same buckets, and those that the schema lets in.

Values are text as PostgreSQL reads it, None for NULL. What is allowed is guessed from CHECK constraints, partition
bounds and the counters' own expressions; a wrong guess is refused by the server, and the writers go on.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from cdc_counter.soak.schema import Column, Table

Values = tuple[str | None, ...]

_INTEGERS: Final = frozenset({"int2", "int4", "int8"})
_NUMBERS: Final = _INTEGERS | {"numeric", "float4", "float8"}
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "citext", "name"})
_STRING: Final = re.compile(r"'((?:[^']|'')*)'")
_NUMBER: Final = re.compile(r"(?<![\w.'])-?\d+(?:\.\d+)?(?![\w.'])")
_LENGTH: Final = re.compile(r"\((\d+)(?:,(-?\d+))?\)")
_AWKWARD: Final = ("", "\\", "\\N", '"', "it's", "a:b|c,d", "tab\tnew\nline", "😀", "{tag}", "%s", "-", "x" * 1500)

_FIXED: Final[dict[str, tuple[str, ...]]] = {
    "bool": ("t", "f"),
    "float4": ("0", "1.5", "-2"),
    "float8": ("0", "1.5", "-2"),
    "date": ("2024-01-01", "2024-01-02", "2024-02-29", "2025-12-31"),
    "time": ("00:00", "12:30"),
    "timetz": ("00:00+00", "12:30+00"),
    "timestamp": ("2024-01-01 00:00", "2024-01-02 12:00", "2025-12-31 23:59:59.5"),
    "timestamptz": ("2024-01-01 00:00+00", "2024-01-02 12:00+00", "2025-12-31 23:59:59.5+00"),
    "interval": ("1 day", "2 hours"),
    "uuid": tuple(f"00000000-0000-4000-8000-00000000000{digit}" for digit in range(5)),
    "json": ('{"kind": "a"}', '{"kind": "b", "size": 2}', "[]", "null"),
    "jsonb": ('{"kind": "a"}', '{"kind": "b", "size": 2}', "[]", "null"),
    "bytea": ("\\x", "\\x00ff"),
    "inet": ("10.0.0.1", "10.0.0.2", "::1"),
    "cidr": ("10.0.0.0/8", "192.168.0.0/16"),
    "macaddr": ("08:00:2b:01:02:03", "08:00:2b:01:02:04"),
    "int4range": ("empty", "[1,5)", "[3,9)"),
    "int8range": ("empty", "[1,5)", "[3,9)"),
    "numrange": ("empty", "[1,5)", "[3,9)"),
    "daterange": ("empty", "[2024-01-01,2024-02-01)"),
    "tsrange": ("empty", "[2024-01-01,2024-02-01)"),
    "tstzrange": ("empty", "[2024-01-01 00:00+00,2024-02-01 00:00+00)"),
    "tsvector": ("", "'a' 'b'"),
    "money": ("0", "1.50"),
    "bit": ("0", "1"),
    "varbit": ("0", "101"),
    "point": ("(0,0)", "(1,2)"),
    "xml": ("<a/>",),
    "oid": ("1", "2"),
}


def values_of(column: Column, table: Table, expressions: Sequence[str]) -> Values:
    """Return what may be written to a column: nothing at all for a type that is not known and must not be NULL.

    `expressions` are those of the counters on the table.
    """
    found = _elements(column, table, expressions)
    if column.is_array:
        found = _arrays(found)
    null: Values = () if column.not_null else (None,)
    return found + null


def _elements(column: Column, table: Table, expressions: Sequence[str]) -> tuple[str, ...]:
    if column.labels:
        return column.labels
    if bounds := _from_partitions(column, table):
        return bounds
    checks = [check.definition for check in table.checks if column.name in check.columns]
    mentioned = [text for text in expressions if re.search(rf"(?<!\w){re.escape(column.name)}(?!\w)", text)]
    if column.element in _TEXTS:
        return _texts(column, _strings(checks), _strings(mentioned))
    if column.element in _NUMBERS:
        return _numbers(column, [float(n) for text in checks + mentioned for n in _NUMBER.findall(text)])
    return _FIXED.get(column.element, ())


def _strings(expressions: Iterable[str]) -> list[str]:
    return [found.replace("''", "'") for text in expressions for found in _STRING.findall(text)]


def _texts(column: Column, allowed: Sequence[str], mentioned: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of a CHECK alone, where there are any; else those that counters ask for, and others."""
    limit = _LENGTH.search(column.base)
    texts = list(allowed) or [*mentioned, "a", "b", "c", "d", *_AWKWARD]
    if limit:
        texts = [text for text in texts if len(text) <= int(limit[1])]
    if column.element == "name":
        texts = [text for text in texts if text.isascii() and len(text) < 60]
    return tuple(dict.fromkeys(texts))


def _numbers(column: Column, mentioned: Sequence[float]) -> tuple[str, ...]:
    """Return small numbers, and those on both sides of what expressions mention."""
    whole = [*range(8), *(int(n) + d for n in mentioned if abs(n) < 30_000 for d in (-1, 0, 1))]
    numbers = [str(n) for n in dict.fromkeys(whole)]
    if column.element in _INTEGERS:
        return tuple(numbers)
    if column.element != "numeric":
        return (*numbers, *_FIXED[column.element])
    size = _LENGTH.search(column.base)
    if size is None:
        return (*numbers, "-2.50", "0.125")
    digits, scale = int(size[1]), int(size[2] or 0)
    fractions = ["-2.50", "0.01", "7.99"] if scale > 0 else []
    return tuple(n for n in [*numbers, *fractions] if abs(float(n)) < 10 ** (digits - scale))


def _arrays(elements: Sequence[str]) -> tuple[str, ...]:
    """Return arrays of none, one, several, repeated and NULL elements."""
    if not elements:
        return ("{}",)
    first, second = elements[0], elements[len(elements) // 2]
    lists: list[list[str | None]] = [[], [first], [second], [first, second], [second, None, second]]
    return tuple("{" + ",".join(map(_array_element, items)) + "}" for items in lists)


def _array_element(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _from_partitions(column: Column, table: Table) -> tuple[str, ...]:
    """Return values that some partition takes; none where partitions do not limit the column, or take everything."""
    found: list[str] = []
    for part in table.parts:
        if column.name not in part.columns or part.bound == "DEFAULT":
            continue
        place = part.columns.index(column.name)
        if part.bound.startswith("FOR VALUES IN"):
            found += [text for text in _literals(part.bound.removeprefix("FOR VALUES IN ")) if text != "NULL"]
        elif part.bound.startswith("FOR VALUES FROM"):
            found += _inside(column, part.bound, place)
    return tuple(dict.fromkeys(found))


def _inside(column: Column, bound: str, place: int) -> list[str]:
    low_text, _, high_text = bound.removeprefix("FOR VALUES FROM ").partition(" TO ")
    low, high = _literals(low_text)[place], _literals(high_text)[place]
    if low == "MINVALUE" or column.element not in _INTEGERS:
        return [] if low == "MINVALUE" else [low]
    start = int(low)
    end = start + 100 if high == "MAXVALUE" else int(high)
    return [str(n) for n in sorted({start, (start + end) // 2, max(start, end - 1)})]


def _literals(text: str) -> list[str]:
    """Return what stands in a parenthesised list of literals."""
    return [
        quoted.replace("''", "'") if quoted or not bare else bare
        for quoted, bare in re.findall(r"'((?:[^']|'')*)'|([^\s(),']+)", text)
    ]
