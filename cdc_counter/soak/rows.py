"""A table as a writer sees it: which columns get which values, as SQL expressions or as text for COPY.

Pure: what is chosen follows from the random generator alone. Where a row of the table itself or of a parent is wanted,
the expression picks it by a hash, so that the server's part of the choice is fixed by its data.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from cdc_counter.soak.schema import Column, ForeignKey, Table, quoted
from cdc_counter.soak.values import Values, values_of

_NUMBERED: Final = frozenset({"int4", "int8", "numeric"})
_NAMED: Final = frozenset({"text", "varchar", "uuid"})
_HOT: Final = 600
"""Keys of few values are met again, by upserts and by other writers."""

_COLD: Final = 10**9


@dataclass(frozen=True, slots=True)
class Rows:
    """`pools` have the values of a column, `numbers` the columns that tell rows apart, `parents` the foreign keys."""

    table: Table
    columns: tuple[Column, ...]
    pools: Mapping[str, Values]
    numbers: tuple[Column, ...]
    parents: tuple[ForeignKey, ...]
    counted: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, table: Table, expressions: Sequence[str]) -> "Rows | None":
        """Return how to write to a table; None when a column must be given that nothing is known to fit."""
        known = {column.name: values_of(column, table, expressions) for column in table.columns if column.writable}
        foreign = {name for key in table.foreign_keys for name in key.columns}
        if any(not known[c.name] and not c.can_be_left_out for c in table.columns if c.name in known):
            return None
        # A column that can't be given a value but has a default is left to it.
        columns = tuple(c for c in table.columns if known.get(c.name) and not c.identity)
        numbers = tuple(dict.fromkeys(c for key in table.unique_keys if (c := _number(key, columns, table, foreign))))
        counted = {c.name for c in table.columns if any(c.name in text for text in expressions)}
        return cls(table, columns, known, numbers, table.foreign_keys, frozenset(counted))

    @property
    def target(self) -> str:
        """The columns of an INSERT, in parentheses; those of foreign keys too."""
        return "(" + ", ".join(quoted(column.name) for column in self.columns) + ")"

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the first unique key; none where there is no key."""
        return self.table.unique_keys[0] if self.table.unique_keys else ()

    @property
    def fits_copy(self) -> bool:
        """Whether rows can be written without asking for a parent's key."""
        return not any(c.not_null for c in self.columns if c.name in self._foreign)

    @property
    def _foreign(self) -> set[str]:
        return {name for key in self.parents for name in key.columns}

    @property
    def listed_by(self) -> str | None:
        """The column of text whose values the table is partitioned by; None for any other table."""
        first = self.table.parts[0] if self.table.parts else None
        if first is None or len(first.columns) != 1 or not first.bound.startswith("FOR VALUES IN"):
            return None
        listed = [c for c in self.columns if c.name == first.columns[0] and c.element == "text"]
        return listed[0].name if listed else None

    def own_name(self, what: str) -> str:
        """Return the qualified name of something that the soak makes for this table."""
        schema, _, name = self.table.name.partition(".")
        return f"{schema}.{quoted(f'soak_{what}_' + name.replace(chr(34), '')[-40:])}"

    def row(self, random: Random, given: Mapping[str, str] | None = None) -> str:
        """Return one row's expressions, without parentheses; `given` ones replace what would be chosen."""
        chosen = {**self._parents_of(random), **{c.name: self.number(c, random) for c in self.numbers}, **(given or {})}
        return ", ".join(chosen.get(c.name) or self.value(c, random) for c in self.columns)

    def many(self, random: Random, number: str = "i") -> str:
        """Return expressions over a running number, of a SELECT that makes many different rows."""
        salt = random.randrange(_COLD)
        chosen = {**self._parents_of(random), **{c.name: _numbered(c, f"({salt} + {number})") for c in self.numbers}}
        return ", ".join(chosen.get(c.name) or self._varied(c, f"hashint8({number} + {salt})") for c in self.columns)

    def copied(self, random: Random) -> str:
        """Return expressions over rows `t` of the table itself, of a SELECT that inserts them once more."""
        salt = random.randrange(_COLD)
        chosen = {c.name: _numbered(c, f"({salt} + row_number() OVER ())") for c in self.numbers}
        return ", ".join(chosen.get(c.name) or f"t.{quoted(c.name)}" for c in self.columns)

    def text(self, random: Random) -> tuple[str | None, ...]:
        """Return one row as text; columns of foreign keys stay empty."""
        texts: list[str | None] = []
        for column in self.columns:
            if column.name in self._foreign:
                texts.append(None)
            elif column in self.numbers:
                texts.append(_number_text(column, random.randint(_HOT, _COLD)))
            else:
                texts.append(random.choice(self.pools[column.name]))
        return tuple(texts)

    def value(self, column: Column, random: Random) -> str:
        """Return one of a column's values."""
        return literal(random.choice(self.pools[column.name]), column.type)

    def number(self, column: Column, random: Random, *, hot: bool | None = None) -> str:
        """Return a value that tells rows apart, of few or of many."""
        few = random.random() < 0.5 if hot is None else hot
        return literal(_number_text(column, random.randint(1, _HOT if few else _COLD)), column.type)

    def changes(self, random: Random, *, counted: bool, staying: bool = False) -> str:
        """Return assignments of one to three columns that counters look at, or of those that they don't.

        `staying`: none that moves a row to another partition.
        """
        kept = {name for part in self.table.parts for name in part.columns} if staying else set()
        free = [c for c in self.columns if c not in self.numbers and c.name not in self._foreign | kept]
        chosen = [c for c in free if (c.name in self.counted) is counted]
        if not chosen:
            # Nothing but a new version of the row.
            name = quoted(self.table.columns[0].name if not free else free[0].name)
            return f"{name} = t.{name}"
        some = random.sample(chosen, min(len(chosen), random.randint(1, 3)))
        return ", ".join(f"{quoted(c.name)} = {self._either(c, random)}" for c in some)

    def some(self, random: Random, share: int) -> str:
        """Return a condition on rows `t` that one row in `share` meets."""
        return f"abs(pg_catalog.hashtext(t::text)::bigint) % {share} = {random.randrange(share)}"

    def hot(self, random: Random, count: int) -> str:
        """Return a condition on a few rows `t` that other writers want as well."""
        if not self.key:
            return self.some(random, 300)
        names = ", ".join(map(quoted, self.key))
        own = ", ".join(f"t.{quoted(name)}" for name in self.key)
        place = random.randrange(10)
        return f"({own}) IN (SELECT {names} FROM {self.table.name} ORDER BY {names} LIMIT {count} OFFSET {place})"

    def _parents_of(self, random: Random) -> dict[str, str]:
        chosen: dict[str, str] = {}
        nullable = {c.name for c in self.columns if not c.not_null}
        for key in self.parents:
            if random.random() < 0.2 and nullable.issuperset(key.columns):
                chosen |= dict.fromkeys(key.columns, "NULL")
                continue
            order = f"ORDER BY pg_catalog.hashtext(p::text || '{random.randrange(1000)}') LIMIT 1"
            for own, theirs in zip(key.columns, key.parent_columns, strict=True):
                chosen[own] = f"(SELECT p.{quoted(theirs)} FROM {key.parent} AS p {order})"
        return chosen

    def _either(self, column: Column, random: Random) -> str:
        """Return one value for all rows, or values that differ from row to row."""
        if random.random() < 0.5:
            return self.value(column, random)
        return self._varied(column, f"pg_catalog.hashtext(t::text || '{random.randrange(1000)}')")

    def _varied(self, column: Column, number: str) -> str:
        pool = self.pools[column.name]
        cases = " ".join(f"WHEN {place} THEN {literal(value, column.type)}" for place, value in enumerate(pool))
        return f"CASE abs({number}::bigint) % {len(pool)} {cases} END"


def literal(value: str | None, type_name: str) -> str:
    """Return a value as SQL, cast to a type."""
    if value is None:
        return f"NULL::{type_name}"
    text = value.replace("'", "''")
    # Backslashes mean the same whatever standard_conforming_strings says.
    written = " E'" + text.replace("\\", "\\\\") + "'" if "\\" in text else f"'{text}'"
    return f"{written}::{type_name}"


def _number(key: Sequence[str], columns: Sequence[Column], table: Table, foreign: Collection[str]) -> Column | None:
    """Return the column of a unique key that can hold a value of its own in every row."""
    limited = {name for part in table.parts for name in part.columns} | set(foreign)
    for column in columns:
        roomy = column.element in _NUMBERED | _NAMED and not column.is_array and "(" not in column.base
        if column.name in key and column.name not in limited and roomy:
            return column
    return None


def _numbered(column: Column, number: str) -> str:
    if column.element == "uuid":
        return f"pg_catalog.md5({number}::text)::{column.type}"
    if column.element in _NAMED:
        return f"('k' || {number})::{column.type}"
    return f"{number}::{column.type}"


def _number_text(column: Column, number: int) -> str:
    if column.element == "uuid":
        return f"00000000-0000-4000-8000-{number:012d}"
    return f"k{number}" if column.element in _NAMED else str(number)
