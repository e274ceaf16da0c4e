"""What a capture function does about a statement that changed one row, as most do: nothing to group, little to start.

Pure. It gives the same numbers as the grouped queries of `counting`, which take over wherever it does not apply:
several rows, a key that has to be shortened, an expression that fails. The time goes not into such a row but into
setting up the query, node by node; so a query here reads each transition table once, whatever the number of counters,
and puts their entries together by one call of format(), to which a key that several counters have is passed once.

The expressions of all counters are computed in one list, where none can see what another one is called.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from psycopg import sql

from cdc_counter.core.definition import NO_KEY
from cdc_counter.postgres.key_types import KeyColumn, digits_key, is_small, quick_key, quick_key_refusal
from cdc_counter.postgres.outbox_ring import CHUNK, current_part
from cdc_counter.postgres.probe import ROWS, ProbedCounter, RowExpressions
from cdc_counter.postgres.rendering import raw, render

_NEW: Final = "new"
_OLD: Final = "old"

_ARGUMENTS: Final = 99
"""PostgreSQL passes at most 100 to a function (FUNC_MAX_ARGS); the first one of format() is the template."""

_ARGUMENTS_OF_A_COUNTER: Final = 6
"""At most: scope, bucket and measure of the new row and of the old one."""


@dataclass(frozen=True, slots=True)
class _CountedRow:
    """A counter with its id, and what it makes of any one row."""

    id: int
    counter: ProbedCounter
    expressions: RowExpressions


@dataclass(frozen=True, slots=True)
class _Side:
    """The row of one transition table and what is computed of it: each expression under a name of ours."""

    name: str
    computed: dict[str, str] = field(default_factory=dict)

    def column(self, expression: str) -> str:
        """Return a reference to what an expression gives."""
        return f"cdc_{self.name}.{self.computed.setdefault(expression, f'e{len(self.computed)}')}"

    def source(self, table: str) -> sql.SQL:
        """Return the subquery that computes everything from the transition table, given the FROM clause."""
        selected = ",\n".join(f"{expression} AS {name}" for expression, name in self.computed.items())
        return raw(f"(\nSELECT {selected}\n{table.replace(ROWS, f'{self.name}_rows')}\n) AS cdc_{self.name}")


@dataclass(slots=True)
class _Call:
    """One call of format(): parts of its template, which are SQL, and its arguments."""

    parts: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        return len(self.arguments) <= _ARGUMENTS - _ARGUMENTS_OF_A_COUNTER

    @property
    def sql(self) -> str:
        template = "\n|| ".join(self.parts)
        return "format({})".format(",\n".join([template, *self.arguments])) if self.arguments else template

    def place(self, argument: str) -> str:
        """Return where the template says an argument goes, which is passed once however often it is used."""
        if argument not in self.arguments:
            self.arguments.append(argument)
        return f"%{self.arguments.index(argument) + 1}$s"


@dataclass(frozen=True, slots=True)
class _Row:
    """One counter's view of the new or the old row: SQL over what its side computes."""

    counted: _CountedRow
    side: _Side

    @property
    def counts(self) -> str | None:
        """Whether the row counts; None where every row does."""
        return None if self.counted.counter.definition.where is None else self._column("w")

    @property
    def compared(self) -> list[str]:
        """What makes the entry of a row that counts."""
        measure = [] if self.counted.counter.sum_type is None else [self._column("m")]
        return [*(column.name for column in self._keys), *measure]

    @property
    def makes_entry(self) -> str | None:
        """Whether the row makes an entry; None where every row does."""
        is_something = None if self.counted.counter.sum_type is None else f"{self._column('m')} <> 0"
        return " AND ".join(filter(None, (self.counts, is_something))) or None

    @property
    def odd(self) -> str | None:
        """When the grouped query has to do it."""
        refusals = [quick_key_refusal(column) for column in self._keys]
        if self.counted.counter.sum_type == "numeric":
            refusals.append(f"{self._column('m')}::numeric IN ('NaN', 'Infinity', '-Infinity')")
        condition = " OR ".join(filter(None, refusals))
        return f"{self.counts} AND ({condition})" if condition and self.counts else condition or None

    @property
    def is_simple(self) -> bool:
        """Whether keys and measure may be computed where nobody asks for them: that is neither costly nor impossible.

        They are columns, and small where a condition guards them; where none does, a large one is `odd`.
        """
        expressions = self.counted.expressions
        columns = all(expressions.is_column(name) for name in expressions.columns if name != "w")
        return columns and (self.makes_entry is None or all(is_small(column) for column in self._keys))

    def entry(self, call: _Call) -> str:
        """Return the entry, a comma before it, as a template of the call."""
        counter = self.counted.counter
        scope, by = (self._key(call, columns) for columns in (counter.scope, counter.by))
        delta = "1" if self.side.name == _NEW else "-1"
        if counter.sum_type is not None:
            delta = call.place(self._measure)
        return f",[{self.counted.id},{scope},{by},{delta}]"

    @property
    def _keys(self) -> tuple[KeyColumn, ...]:
        return self._referring((*self.counted.counter.scope, *self.counted.counter.by))

    @property
    def _measure(self) -> str:
        counter = self.counted.counter
        value = f"{self._column('m')}::{counter.sum_type}"
        if counter.sum_type == "numeric":
            value = f"trunc({value} * 1{'0' * counter.scale}::numeric)"
        return value if self.side.name == _NEW else f"-({value})"

    def _key(self, call: _Call, columns: tuple[KeyColumn, ...]) -> str:
        if not columns:
            return f'"{NO_KEY}"'
        referring = self._referring(columns)
        if digits := digits_key(referring):
            return f'"{call.place(digits)}"'
        # Escaped whatever the type: the column may have become a text since.
        return call.place(f"to_json({quick_key(referring)})")

    def _referring(self, columns: Iterable[KeyColumn]) -> tuple[KeyColumn, ...]:
        return tuple(replace(column, name=self._column(column.name)) for column in columns)

    def _column(self, name: str) -> str:
        return self.side.column(self.counted.expressions.columns[name])


def insert_entries(counters: Sequence[tuple[int, ProbedCounter]]) -> str:
    """Return what finds the entries of one inserted row; nothing where one row can make several keys.

    It sets `cdc_part` to this hour's partition of the outbox; and `cdc_row` to the entries, a comma before each, or to
    NULL where the grouped query has to make them.
    """
    return _one_sided(_counted_rows(counters), _Side(_NEW))


def delete_entries(counters: Sequence[tuple[int, ProbedCounter]]) -> str:
    """As `insert_entries`, of one deleted row."""
    return _one_sided(_counted_rows(counters), _Side(_OLD))


def update_entries(counters: Sequence[tuple[int, ProbedCounter]]) -> str:
    """As `insert_entries`, of one updated row."""
    counted = _counted_rows(counters)
    if not counted:
        return ""
    sides = new, old = _Side(_NEW), _Side(_OLD)
    entries = _Entries()
    for each in counted:
        entries.add_change(*(_Row(each, side) for side in sides))
    read = sorted({name for each in counted for name in each.expressions.reads})
    table = counted[0].expressions.source
    return render(
        "capture",
        "one_row_changes",
        same=raw(_same(read)),
        entries=entries.sql,
        part=current_part(),
        new=new.source(table),
        old=old.source(table),
    )


def _counted_rows(counters: Sequence[tuple[int, ProbedCounter]]) -> list[_CountedRow]:
    """Return each counter with its expressions; nothing where the entries of one row might not fit, or have sets."""
    rows = [_CountedRow(number, counter, counter.row) for number, counter in counters if counter.row is not None]
    return rows if len(rows) == len(counters) and 2 * len(rows) <= CHUNK else []


def _one_sided(counted: Sequence[_CountedRow], side: _Side) -> str:
    if not counted:
        return ""
    entries = _Entries()
    entries.add_rows(_Row(each, side) for each in counted)
    return render(
        "capture",
        "one_row_entries",
        entries=entries.sql,
        part=current_part(),
        source=side.source(counted[0].expressions.source),
    )


@dataclass(frozen=True, slots=True)
class _Entries:
    """All entries of a firing, as texts that follow each other, and when the grouped query has to make them.

    Simple counters share calls of format(), whose arguments are computed in any case. Any other has one of its own,
    where its conditions hold.
    """

    shared: list[_Call] = field(default_factory=lambda: [_Call()])
    texts: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def add_rows(self, rows: Iterable[_Row]) -> None:
        """Add one side of some counters; a condition that several of them have is looked at once in a call."""
        templates: dict[tuple[int, str | None], str] = {}
        texts: dict[str | None, list[str]] = {}
        for row in rows:
            self._note_odd(row)
            if row.is_simple or row.makes_entry is None:
                call = self._call()
                place = len(self.shared) - 1, row.makes_entry
                templates[place] = templates.get(place, "") + row.entry(call)
            else:
                texts.setdefault(row.makes_entry, []).append(_call_of_its_own(row))
        for (at, condition), template in templates.items():
            self.shared[at].parts.append(_where(condition, f"'{template}'"))
        self.texts.extend(_where(condition, " || ".join(some)) for condition, some in texts.items())

    def add_change(self, new: _Row, old: _Row) -> None:
        """Add both sides of one counter, unless what it counts can't change."""
        same = _unchanged(new, old)
        if same is None:
            return
        for row in (old, new):
            self._note_odd(row)
        if new.is_simple:
            call = self._call()
            sides = [_where(row.makes_entry, f"'{row.entry(call)}'") for row in (old, new)]
            call.parts.append(_where(f"NOT ({same})", " || ".join(sides)))
        else:
            sides = [_where(row.makes_entry, _call_of_its_own(row)) for row in (old, new)]
            self.texts.append(_where(f"NOT ({same})", " || ".join(sides)))

    @property
    def sql(self) -> sql.SQL:
        """All entries as one text, NULL where the grouped query has to make them."""
        texts = [*(call.sql for call in self.shared if call.parts), *self.texts]
        text = " || ".join(texts or ["''"])
        odd = " OR ".join(f"({each})" for each in self.odd)
        return raw(f"CASE WHEN {odd} THEN NULL ELSE {text} END" if odd else text)

    def _call(self) -> _Call:
        if not self.shared[-1].has_room:
            self.shared.append(_Call())
        return self.shared[-1]

    def _note_odd(self, row: _Row) -> None:
        if row.odd is not None and row.odd not in self.odd:
            self.odd.append(row.odd)


def _call_of_its_own(row: _Row) -> str:
    call = _Call()
    call.parts.append(f"'{row.entry(call)}'")
    return call.sql


def _where(condition: str | None, text: str) -> str:
    return f"CASE WHEN {condition} THEN {text} ELSE '' END" if condition else text


def _unchanged(new: _Row, old: _Row) -> str | None:
    """Return the condition under which an updated row makes no entries for one counter; None where it never does."""
    conditions = []
    if new.compared:
        conditions.append(f"ROW({', '.join(new.compared)}) IS NOT DISTINCT FROM ROW({', '.join(old.compared)})")
    if new.counts is not None:
        # Where neither row counts, its keys may be costly or impossible to compute.
        conditions = [f"{new.counts} = {old.counts}", *(f"(NOT {new.counts} OR {same})" for same in conditions)]
    return " AND ".join(conditions) or None


def _same(read: Iterable[str]) -> str:
    """Return whether all columns that are read are what they were, to the last bit; NULL where there was no row.

    Equal is not enough: 1.0 equals 1.00, but an expression can tell them apart. No row's name stands before a column:
    once `count` is gone, `row.count` would be `count(row)`.
    """
    columns = ", ".join(map(_quoted, read))
    return render("capture", "same_row", columns=raw(columns)).strip() if columns else "(SELECT true FROM old_rows)"


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
