"""What a capture function does about a statement that changed one row, as most do: nothing to group, little to start.

Pure. It gives the same numbers as the grouped queries of `counting`, which take over wherever it does not apply:
several rows, a key that has to be shortened, an expression that fails. The time goes not into such a row but into
setting up the query, node by node; so a query here reads each transition table once, whatever the number of counters.

The expressions of all counters are computed in one list, where none can see what another one is called.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from cdc_counter.core.definition import NO_KEY
from cdc_counter.postgres.key_types import KeyColumn, quick_key, quick_key_refusal
from cdc_counter.postgres.outbox_ring import CHUNK
from cdc_counter.postgres.probe import ROWS, ProbedCounter, RowExpressions
from cdc_counter.postgres.rendering import raw, render

_NEW: Final = "new"
_OLD: Final = "old"

_ARGUMENTS: Final = 90
"""PostgreSQL passes at most 100 to a function (FUNC_MAX_ARGS)."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One counter's view of the new or the old row: SQL over what `_source` gives."""

    id: int
    counter: ProbedCounter
    expressions: RowExpressions
    side: str

    @property
    def selected(self) -> list[str]:
        """The expressions as a select list, under names of this counter's own."""
        return [f"{expression} AS {name}_{self.id}" for name, expression in self.expressions.columns.items()]

    @property
    def scope(self) -> tuple[KeyColumn, ...]:
        return self._columns(self.counter.scope)

    @property
    def by(self) -> tuple[KeyColumn, ...]:
        return self._columns(self.counter.by)

    @property
    def counts(self) -> str | None:
        """Whether the row counts; None where every row does."""
        return None if self.counter.definition.where is None else self._column("w")

    @property
    def compared(self) -> list[str]:
        """What makes the entry of a row that counts."""
        measure = [] if self.counter.sum_type is None else [self._column("m")]
        return [*(column.name for column in (*self.scope, *self.by)), *measure]

    @property
    def entry(self) -> str:
        """The entry as text, NULL where the row does not count."""
        conditions = [] if self.counts is None else [self.counts]
        if self.counter.sum_type is None:
            delta = ["1]" if self.side == _NEW else "-1]"]
        else:
            delta = ["", self._measure, "]"]
            conditions.append(f"{self._column('m')} <> 0")
        text = _concatenated([f"[{self.id},"], _json(self.scope), [","], _json(self.by), [","], delta)
        return f"CASE WHEN {' AND '.join(conditions)} THEN {text} END" if conditions else text

    @property
    def odd(self) -> str | None:
        """When the grouped query has to do it."""
        refusals = [quick_key_refusal(column) for column in (*self.scope, *self.by)]
        if self.counter.sum_type == "numeric":
            refusals.append(f"{self._column('m')}::numeric IN ('NaN', 'Infinity', '-Infinity')")
        condition = " OR ".join(refusal for refusal in refusals if refusal)
        return f"{self.counts} AND ({condition})" if condition and self.counts else condition or None

    @property
    def _measure(self) -> str:
        value = f"{self._column('m')}::{self.counter.sum_type}"
        if self.counter.sum_type == "numeric":
            value = f"trunc({value} * 1{'0' * self.counter.scale}::numeric)"
        return value if self.side == _NEW else f"-({value})"

    def _column(self, name: str) -> str:
        return f"cdc_{self.side}.{name}_{self.id}"

    def _columns(self, columns: Iterable[KeyColumn]) -> tuple[KeyColumn, ...]:
        return tuple(replace(column, name=self._column(column.name)) for column in columns)


def insert_entries(counters: Sequence[tuple[int, ProbedCounter]]) -> str:
    """Return what sets `cdc_row` to the entries of one inserted row; nothing where one row can make several keys."""
    return _one_sided(_rows(counters, _NEW))


def delete_entries(counters: Sequence[tuple[int, ProbedCounter]]) -> str:
    """As `insert_entries`, of one deleted row."""
    return _one_sided(_rows(counters, _OLD))


def update_entries(counters: Sequence[tuple[int, ProbedCounter]]) -> str:
    """As `insert_entries`, of one updated row."""
    new, old = _rows(counters, _NEW), _rows(counters, _OLD)
    if not new:
        return ""
    changes = [_change(n, o) for n, o in zip(new, old, strict=True)]
    read = sorted({name for row in new for name in row.expressions.reads})
    return render(
        "capture",
        "one_row_changes",
        same=raw(_same(len(read))),
        columns=raw(_read_columns(read)),
        entries=_line([change for change in changes if change], [*new, *old]),
        new=_source(new),
        old=_source(old),
    )


def _rows(counters: Sequence[tuple[int, ProbedCounter]], side: str) -> list[_Row]:
    """Return each counter's view of a row; none at all where the entries of one row might not fit, or have sets."""
    rows = [_Row(number, counter, counter.row, side) for number, counter in counters if counter.row is not None]
    return rows if len(rows) == len(counters) and 2 * len(rows) <= CHUNK else []


def _one_sided(rows: Sequence[_Row]) -> str:
    if not rows:
        return ""
    return render("capture", "one_row_entries", entries=_line([row.entry for row in rows], rows), source=_source(rows))


def _read_columns(names: Sequence[str]) -> str:
    """Return a select list of columns under names of ours: where one is gone, `row.count` would be `count(row)`."""
    return ", ".join(f"{sql.Identifier(name).as_string()} AS c{at}" for at, name in enumerate(names))


def _same(count: int) -> str:
    """Return the condition that all of `_read_columns` are what they were, to the last bit.

    Equal is not enough: 1.0 equals 1.00, but an expression can tell them apart.
    """
    new, old = (", ".join(f"cdc_{side}.c{at}" for at in range(count)) for side in (_NEW, _OLD))
    return f"record_image_eq(ROW({new}), ROW({old}))" if count else "true"


def _change(new: _Row, old: _Row) -> str | None:
    """Return the entries of an updated row for one counter, NULL where there are none; None where there never are."""
    conditions = []
    if new.compared:
        conditions.append(f"ROW({', '.join(new.compared)}) IS NOT DISTINCT FROM ROW({', '.join(old.compared)})")
    if new.counts is not None:
        # Where neither row counts, its keys may be costly or impossible to compute.
        conditions = [f"{new.counts} = {old.counts}", *(f"(NOT {new.counts} OR {same})" for same in conditions)]
    if not conditions:
        return None
    return (
        f"CASE WHEN {' AND '.join(conditions)} THEN NULL ELSE nullif(concat_ws(',', {old.entry}, {new.entry}), '') END"
    )


def _line(entries: Sequence[str], rows: Iterable[_Row]) -> sql.SQL:
    """Return all entries as one text, NULL where the grouped query has to make them."""
    line = _joined(entries)
    odd = " OR ".join(f"({row.odd})" for row in rows if row.odd)
    return raw(f"CASE WHEN {odd} THEN NULL ELSE {line} END" if odd else line)


def _joined(entries: Sequence[str]) -> str:
    """Return concat_ws() of entries that may be NULL, of groups of them where they are too many for one call."""
    if len(entries) <= _ARGUMENTS:
        return "concat_ws({})".format(",\n".join(["','", *entries]))
    groups = [entries[at : at + _ARGUMENTS] for at in range(0, len(entries), _ARGUMENTS)]
    return _joined([f"nullif({_joined(group)}, '')" for group in groups])


def _source(rows: Sequence[_Row]) -> sql.SQL:
    """Return one side's row with what every counter makes of it."""
    side, selected = rows[0].side, ",\n".join(each for row in rows for each in row.selected)
    table = rows[0].expressions.source.replace(ROWS, f"{side}_rows")
    return raw(f"(\nSELECT {selected}\n{table}\n) AS cdc_{side}")


def _json(columns: tuple[KeyColumn, ...]) -> Sequence[str]:
    """Return a key in JSON: a literal, or a literal, an expression and a literal."""
    if not columns:
        return [f'"{NO_KEY}"']
    # Escaped whatever the type: the column may have become a text since.
    return ["", f"to_json({quick_key(columns)})", ""]


def _concatenated(*parts: Sequence[str]) -> str:
    """Return concat() of literals and, in between, expressions; literals that meet become one argument."""
    arguments: list[str] = []
    literal = ""
    for first, *rest in parts:
        literal += first
        if rest:
            expression, last = rest
            arguments += [f"'{literal}'", expression]
            literal = last
    return "concat({})".format(", ".join([*arguments, f"'{literal}'"]))
