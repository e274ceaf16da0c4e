"""The tables that the writers write to, as the catalog describes them.

Read once, before anything is installed: only tables that are there from the start are written to.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from cdc_counter.resources import sql_blocks


@dataclass(frozen=True, slots=True)
class Column:
    """`type` as written in a cast; `base` the type below a domain, `element` the name of its element's type."""

    name: str
    type: str
    base: str
    element: str
    is_array: bool
    not_null: bool
    has_default: bool
    identity: str
    generated: bool
    labels: tuple[str, ...] = ()

    @property
    def can_be_left_out(self) -> bool:
        """Whether an INSERT may say nothing of it."""
        return self.has_default or not self.not_null or bool(self.identity) or self.generated

    @property
    def writable(self) -> bool:
        """Whether a statement may say a value."""
        return not self.generated and self.identity != "a"


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`columns` refer to `parent_columns` of the table whose quoted name is `parent`."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A partition at any depth: its bound as PostgreSQL prints it, and the columns it is about ('': expression)."""

    name: str
    is_leaf: bool
    bound: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A CHECK constraint and the columns in it."""

    definition: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, its name qualified and quoted, with all that limits what can be written to it."""

    name: str
    partitioned: bool
    columns: tuple[Column, ...]
    unique_keys: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    checks: tuple[Check, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def leaves(self) -> tuple[str, ...]:
        """The partitions that hold rows."""
        return tuple(part.name for part in self.parts if part.is_leaf)


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def read_schema(connection: AsyncConnection[Any], own_schema: str) -> tuple[Table, ...]:
    """Return every ordinary table of the database but those in our own schema, parents before children."""
    blocks = sql_blocks("soak_catalog")

    async def rows(block: str, **parameters: object) -> list[tuple[Any, ...]]:
        return await (await connection.execute(blocks[block].encode(), parameters)).fetchall()

    # Whatever is printed from the catalog names its schema then.
    await connection.execute("SET search_path = pg_catalog")
    found = await rows("tables", schema=own_schema)
    names = {oid: f"{quoted(schema)}.{quoted(name)}" for oid, schema, name, _ in found}
    tables = list(names)
    columns = _by_table((oid, _column(fields)) for oid, *fields in await rows("columns", tables=tables))
    keys = _by_table((oid, tuple(key)) for oid, key in await rows("unique_keys", tables=tables))
    foreign = _by_table(
        (oid, ForeignKey(tuple(own), names[parent], tuple(theirs)))
        for oid, parent, own, theirs in await rows("foreign_keys", tables=tables)
    )
    checks = _by_table((oid, Check(text, tuple(about))) for oid, text, about in await rows("checks", tables=tables))
    parts = _by_table(
        (oid, Part(f"{quoted(schema)}.{quoted(name)}", is_leaf, bound, tuple(about)))
        for oid, schema, name, is_leaf, bound, about in await rows("partitions", tables=tables)
    )
    return parents_first(
        Table(names[oid], partitioned, columns[oid], keys[oid], foreign[oid], checks[oid], parts[oid])
        for oid, _, _, partitioned in found
    )


def parents_first(tables: Iterable[Table]) -> tuple[Table, ...]:
    """Return the tables so that what a foreign key points to comes first; in a circle, anyhow."""
    waiting = list(tables)
    done: list[Table] = []
    while waiting:
        names = {table.name for table in waiting}
        free = [t for t in waiting if not any(k.parent in names - {t.name} for k in t.foreign_keys)]
        done += free or waiting[:1]
        waiting = [table for table in waiting if table not in done]
    return tuple(done)


def _column(fields: list[Any]) -> Column:
    name, type_name, base, element, is_array, not_null, has_default, identity, generated, labels = fields
    return Column(name, type_name, base, element, is_array, not_null, has_default, identity, generated, tuple(labels))


def _by_table(pairs: Iterable[tuple[int, Any]]) -> defaultdict[int, tuple[Any, ...]]:
    grouped: defaultdict[int, tuple[Any, ...]] = defaultdict(tuple)
    for oid, value in pairs:
        grouped[oid] += (value,)
    return grouped
