"""What a capture function does about a statement of very many rows: groups them once for all counters, if it can.

Pure. What all counters together make of a row is its kind: whether it counts, and its keys. Grouping counter by counter
reads a transition table as often as there are counters. Where kinds are few, the rows are grouped by kind, and only the
kinds counter by counter; where they are many that would be one grouping more, so a sample decides.

The numbers are those of `counting`: sums are added up in the same types, and a counter's expressions are evaluated for
none but the rows that it counts.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from psycopg import sql

from cdc_counter.postgres import counting
from cdc_counter.postgres.key_types import is_small
from cdc_counter.postgres.probe import ROWS, ProbedCounter, RowExpressions
from cdc_counter.postgres.rendering import raw, render

_MANY_ROWS: Final = 20_000
"""From here on the sample costs less than a tenth of what can be saved."""

_SAMPLE: Final = 2_000
_FEW_KINDS: Final = 1_000
"""In the sample: about 1,250 kinds show so many, if they are equally frequent."""

_ROWS: Final = "n"
"""The column with the number of rows of a kind."""


class _Kinds:
    """The columns that tell kinds apart, each expression once, and the measures that are added up within a kind."""

    def __init__(self) -> None:
        self._columns: dict[str, str] = {}
        self._measures: dict[str, str] = {_ROWS: "1"}

    @property
    def columns(self) -> Sequence[str]:
        return list(self._columns.values())

    @property
    def totals(self) -> Sequence[str]:
        return [f"sum(r.{name}) AS {name}" for name in self._measures]

    def column(self, expression: str) -> str:
        """Return the column of an expression."""
        return self._columns.setdefault(expression, f"k{len(self._columns) + 1}")

    def measure(self, expression: str) -> str:
        """Return a new column for the sum of an expression."""
        name = f"m{len(self._measures)}"
        self._measures[name] = expression
        return name

    def selected(self, sign: str) -> str:
        """Return the select list that makes a row's kind and measures."""
        columns = [f"{expression} AS {name}" for expression, name in self._columns.items()]
        measures = [f"{sign}({expression}) AS {name}" for name, expression in self._measures.items()]
        return ",\n".join([*columns, *measures])


def grouped_at_once(counters: Sequence[tuple[int, ProbedCounter]], signs: Mapping[str, str], one_by_one: str) -> str:
    """Return what sets `cdc_entries`, given the statement that does it counter by counter.

    `signs` has the sign with which the rows of each transition table count: "" or "-".
    """
    rows = [counter.row for _, counter in counters if counter.row is not None]
    if len(rows) != len(counters) or len(rows) == 1:
        return one_by_one
    kinds = _Kinds()
    entries = [
        counting.entries_of_kinds(counter, number, _rows_of_kinds(kinds, counter, row))
        for (number, counter), row in zip(counters, rows, strict=True)
    ]
    if not kinds.columns:
        return one_by_one
    changes = [
        f"SELECT {kinds.selected(sign)}\n{rows[0].source.replace(ROWS, source)}" for source, sign in signs.items()
    ]
    columns = ", ".join(f"r.{name}" for name in kinds.columns)
    return render(
        "capture",
        "grouped_at_once",
        source=sql.Identifier(next(iter(signs))),
        many=raw(str(_MANY_ROWS)),
        sample=raw(str(_SAMPLE)),
        few=raw(str(_FEW_KINDS)),
        columns=raw(columns),
        some=raw(changes[0]),
        totals=raw(", ".join(kinds.totals)),
        rows=raw("\nUNION ALL\n".join(changes)),
        entries=raw("\nUNION ALL\n".join(entries)),
        one_by_one=raw(one_by_one),
    )


def _rows_of_kinds(kinds: _Kinds, counter: ProbedCounter, row: RowExpressions) -> str:
    """Return the query that gives one counter's raw keys, and what to add up, from the kinds."""
    counts = None if counter.definition.where is None else row.columns["w"]
    selected = [
        f"{kinds.column(_guarded(counts, row, column.name, small=is_small(column)))} AS {column.name}"
        for column in (*counter.scope, *counter.by)
    ]
    total = _ROWS
    if counter.sum_type is not None:
        total = kinds.measure(f"({_guarded(counts, row, 'm', small=True)})::{counter.sum_type}")
    condition = "" if counts is None else f"WHERE {kinds.column(counts)}"
    return render(
        "capture", "rows_of_kinds", columns=raw(", ".join([*selected, f"{total} AS d"])), where=raw(condition)
    )


def _guarded(counts: str | None, row: RowExpressions, name: str, *, small: bool) -> str:
    """Return an expression that is evaluated only where the row counts: elsewhere it may fail, or be costly.

    A small column is neither; a large one would make a kind of each row that nobody counts.
    """
    expression = row.columns[name]
    if counts is None or (small and row.is_column(name)):
        return expression
    return f"CASE WHEN {counts} THEN {expression} END"
