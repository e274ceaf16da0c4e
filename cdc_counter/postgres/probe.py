"""Asks PostgreSQL what a declaration means on its table, and refuses what could not be kept exact.

A temporary copy of the table's shape carries a temporary view made of the expressions; the view's stored form tells
which functions they call, its deparsed form is what everything installed is generated from. So a constant, a function
or an operator means the same in the truth view and in the triggers. All in a transaction that is rolled back.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.errors import DefinitionError
from cdc_counter.postgres import expressions
from cdc_counter.postgres.key_types import ColumnType, KeyColumn, key_kind, key_refusal
from cdc_counter.postgres.node_tree import Node, parse_node_tree
from cdc_counter.postgres.relations import Relation, find_relation
from cdc_counter.postgres.rendering import block, content_hash, raw
from cdc_counter.postgres.settings import pinned_settings

ROWS = "<counted rows>"
"""Stands in a rows query where the table's name, or the name of a transition table, goes."""

_INTEGERS = {"int2": "bigint", "int4": "bigint", "int8": "numeric"}
_VIEW = "_view"
_ROW_VIEW = "_row"


@dataclass(frozen=True, slots=True)
class RowExpressions:
    """What a counter makes of any one row, each expression by itself as PostgreSQL deparsed it.

    `columns` are named as in the rows query, with `w` first: whether the row counts. `source` is the FROM clause that
    gives them their table, with `ROWS`. `reads` are the table's columns that they use.
    """

    columns: Mapping[str, str]
    source: str
    reads: tuple[str, ...]

    def is_column(self, name: str) -> bool:
        """Say whether an expression is nothing but a column of the table; where that can't be told, that it isn't."""
        return self.columns[name] in {*self.reads, *(sql.Identifier(read).as_string() for read in self.reads)}


@dataclass(frozen=True, slots=True)
class ProbedCounter:
    """A declaration that PostgreSQL has understood.

    `rows_query` selects the raw keys (`s1`, `b1`, ...) and, for a sum, the measure `m` from `ROWS`. `sum_type` is None
    for a count, else the type in which measures are added without overflow. `row` has the expressions one by one; None
    where one row can make several keys. `heeds_settings` says that what they mean may depend on the session.
    """

    definition: CounterDefinition
    relation: Relation
    rows_query: str
    scope: tuple[KeyColumn, ...]
    by: tuple[KeyColumn, ...]
    sum_type: str | None
    scale: int
    row: RowExpressions | None = None
    heeds_settings: bool = True

    @property
    def scoped(self) -> bool:
        """Whether the counter has scopes of its own."""
        return bool(self.scope)

    @property
    def meaning(self) -> str:
        """A hash that changes when the numbers would: for example when a column's type or a function's schema does."""
        kinds = [column.kind.value for column in (*self.scope, *self.by)]
        return content_hash(repr((self.rows_query, kinds, self.sum_type, self.scale)))

    def rows_of(self, source: str) -> str:
        """Return the rows query over a table or transition table, given as SQL."""
        return self.rows_query.replace(ROWS, source)


@dataclass(frozen=True, slots=True)
class _Expression:
    key: str
    column: str
    text: str


async def probe(connection: AsyncConnection[Any], definition: CounterDefinition, schema: str) -> ProbedCounter:
    """Return what a declaration means; raises DefinitionError when it can't be kept exact. Leaves nothing behind."""
    async with connection.transaction(force_rollback=True):
        relation = await find_relation(connection, definition.table, schema, definition.name)
        return await _Probe(connection, definition, relation).run()


class _Probe:
    def __init__(self, connection: AsyncConnection[Any], definition: CounterDefinition, relation: Relation) -> None:
        self._connection = connection
        self._definition = definition
        self._relation = relation
        self._name = f"cdc_probe_{secrets.token_hex(8)}"
        self._makes_sets = False

    async def run(self) -> ProbedCounter:
        definition = self._definition
        await self._pin({name: value for name, value in pinned_settings().items() if name != "search_path"})
        await self._create_copy()
        targets = [
            *(_Expression("scope", f"s{i}", text) for i, text in enumerate(definition.scope, 1)),
            *(_Expression("by", f"b{i}", text) for i, text in enumerate(definition.by, 1)),
        ]
        if definition.sum_of is not None:
            targets.append(_Expression("measure", "m", definition.sum_of))
        # Alone first: errors get their place, and no expression can reach beyond its parentheses.
        for target in targets:
            await self._check_alone(target, [target], None)
        if definition.where is not None:
            where = _Expression("where", "ignored", definition.where)
            await self._check_alone(where, [_Expression("where", "ignored", "1")], definition.where)
        return await self._understand(targets)

    async def _create_copy(self) -> None:
        try:
            await self._connection.execute(
                raw("CREATE TEMP TABLE {} (LIKE {})").format(
                    sql.Identifier(self._name), sql.Identifier(self._relation.schema, self._relation.name)
                )
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise DefinitionError(
                f"counter {self._definition.name!r}: table {self._relation.quoted} can't be read: {_primary(error)}",
                hint="grant SELECT on the table and TEMPORARY on the database to this role",
            ) from error

    async def _create_view(self, name: str, targets: list[_Expression], where: str | None) -> None:
        columns = sql.SQL(", ").join(
            # the line break ends a comment that an expression may end with
            raw("({}\n) AS {}").format(raw(target.text), sql.Identifier(target.column))
            for target in targets
        )
        statement = raw("CREATE TEMP VIEW {} AS SELECT {} FROM {} AS {}").format(
            sql.Identifier(name), columns, sql.Identifier(self._name), sql.Identifier(self._relation.name)
        )
        if where is not None:
            statement += raw(" WHERE ({}\n)").format(raw(where))
        # binary makes it the extended protocol, which refuses a second statement after a semicolon
        await self._connection.execute(statement, binary=True)

    async def _check_alone(self, subject: _Expression, targets: list[_Expression], where: str | None) -> None:
        name = self._name + _VIEW
        try:
            async with self._connection.transaction(force_rollback=True):
                await self._create_view(name, targets, where)
                query = await self._stored_query(name)
                refusal = expressions.node_refusal(query) or expressions.structure_refusal(query, 1)
                if refusal is not None:
                    raise self._refused(subject, refusal)
                functions = await self._functions(subject, query)
                self._check_sets(subject, query, functions)
                await self._check_columns(subject, query)
                word = expressions.clock_literal(subject.text, await self._deparse(name))
                if word is not None:
                    raise self._refused(subject, f"has the literal {word!r}, which would be read only once")
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            raise self._refused(subject, f"is not understood: {_primary(error)}", error.diag.message_hint) from error

    async def _stored_query(self, view: str) -> Node:
        cursor = await self._connection.execute(block("probe", "stored_query"), {"view": view})
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101 - the view was just created in this transaction
        return parse_node_tree(row[0])

    async def _functions(self, subject: _Expression, query: Node) -> dict[int, expressions.FunctionFacts]:
        used = expressions.uses(query)
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                block("probe", "functions"),
                {
                    "functions": list(used.functions),
                    "operators": list(used.operators),
                    "written_types": list(used.written_types),
                    "read_types": list(used.read_types),
                },
            )
            rows = await cursor.fetchall()
        for row in rows:
            if row["volatility"] != "i":
                raise self._refused(
                    subject,
                    f"uses {row['name']}, which is not immutable: its result can change while the row does not",
                    "use only immutable functions; for dates see timezone('UTC', ...) and date_trunc",
                )
        return {row["oid"]: expressions.FunctionFacts(row["name"], True, row["returns_set"]) for row in rows}

    def _check_sets(self, subject: _Expression, query: Node, functions: dict[int, expressions.FunctionFacts]) -> None:
        for _, is_top in expressions.set_returning_depths(query, functions):
            self._makes_sets = True
            if subject.key != "by":
                raise self._refused(subject, "returns a set", "use a set-returning function only in 'by'")
            if not is_top:
                raise self._refused(
                    subject, "has a set-returning function inside", "let the function stand alone, as in unnest(tags)"
                )

    async def _check_columns(self, subject: _Expression, query: Node) -> None:
        numbers = list(expressions.uses(query).columns)
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                block("probe", "used_columns"),
                {"relation": self._relation.oid, "probe": self._name, "numbers": numbers},
            )
            for row in await cursor.fetchall():
                if row["attgenerated"] == "v":
                    raise self._refused(
                        subject,
                        f"uses the virtual generated column {row['attname']!r}, which triggers see as NULL",
                        "write the column's own expression instead, or make the column STORED",
                    )

    async def _understand(self, targets: list[_Expression]) -> ProbedCounter:
        definition = self._definition
        name = self._name + _VIEW
        selected = targets or [_Expression("measure", "m", "1")]
        await self._create_view(name, selected, definition.where)
        query = await self._stored_query(name)
        refusal = expressions.structure_refusal(query, len(selected))
        if refusal is not None:
            raise DefinitionError(f"counter {definition.name!r}: one of its expressions {refusal}")
        types = await self._column_types(name)
        keys = {key: tuple(self._key(t, types[t.column]) for t in targets if t.key == key) for key in ("scope", "by")}
        sum_type, scale = None, 0
        if definition.sum_of is not None:
            sum_type, scale = self._sum(targets[-1], types["m"])
        columns = await self._create_row_view(targets)
        return ProbedCounter(
            definition=definition,
            relation=self._relation,
            rows_query=await self._rows_query(name),
            row=None if self._makes_sets else await self._row_expressions(columns, query),
            heeds_settings=expressions.heed_settings(query),
            scope=keys["scope"],
            by=keys["by"],
            sum_type=sum_type,
            scale=scale,
        )

    async def _column_types(self, view: str) -> dict[str, ColumnType]:
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(block("probe", "view_columns"), {"view": view})
            return {
                row["attname"]: ColumnType(
                    name=row["typname"],
                    is_builtin=row["is_builtin"],
                    is_enum=row["is_enum"],
                    is_deterministic=row["is_deterministic"],
                    scale=_scale(row["typmod"]),
                )
                for row in await cursor.fetchall()
            }

    def _key(self, target: _Expression, column: ColumnType) -> KeyColumn:
        refusal = key_refusal(column)
        kind = key_kind(column)
        if refusal is not None or kind is None:
            why, hint = refusal or ("can't be a key", None)
            raise self._refused(target, f"can't be used: {why}", hint)
        return KeyColumn(target.column, kind)

    def _sum(self, target: _Expression, column: ColumnType) -> tuple[str, int]:
        if column.is_builtin and column.name in _INTEGERS:
            return _INTEGERS[column.name], 0
        if not column.is_builtin or column.name != "numeric":
            raise self._refused(
                target,
                f"has type {column.name}, which can't be added exactly",
                f"cast it: sum(({target.text})::numeric(20,2))",
            )
        if column.scale is None:
            raise self._refused(
                target,
                "has type numeric without a declared scale",
                f"declare how many digits count: sum(({target.text})::numeric(20,2))",
            )
        return "numeric", max(column.scale, 0)

    async def _deparse(self, view: str) -> str:
        cursor = await self._connection.execute(block("probe", "deparse"), {"view": view})
        row = await cursor.fetchone()
        return str(row[0]) if row else ""

    async def _rows_query(self, view: str) -> str:
        # The name as text survives the change of search_path: temporary relations are always looked up first.
        await self._pin({"search_path": pinned_settings()["search_path"], "quote_all_identifiers": "off"})
        text = (await self._deparse(view)).strip().removesuffix(";")
        return re.sub(rf"(?:pg_temp(?:_\d+)?\.)?{self._name}\b", ROWS, text)

    async def _create_row_view(self, targets: list[_Expression]) -> list[str]:
        """Create a view of every row, with the mark whether it counts; return what its columns stand for."""
        where = self._definition.where
        mark = _Expression("where", "w", "true" if where is None else f"({where}\n) IS TRUE")
        columns = [replace(target, column=self._row_column(target.column)) for target in (mark, *targets)]
        await self._create_view(self._name + _ROW_VIEW, columns, None)
        return [target.column for target in (mark, *targets)]

    def _row_column(self, column: str) -> str:
        # Nobody can guess it, so the view's text can be cut where it stands.
        return f"{self._name}_{column}"

    async def _row_expressions(self, columns: list[str], query: Node) -> RowExpressions:
        rest = (await self._rows_query(self._name + _ROW_VIEW)).removeprefix("SELECT ")
        alone = {}
        for column in columns:
            alone[column], rest = rest.split(f" AS {self._row_column(column)}", 1)
            rest = rest.lstrip(", \n")
        return RowExpressions(alone, rest, await self._column_names(query))

    async def _column_names(self, query: Node) -> tuple[str, ...]:
        numbers = list(expressions.uses(query).columns)
        cursor = await self._connection.execute(
            block("probe", "column_names"), {"probe": self._name, "numbers": numbers}
        )
        return tuple([row[0] async for row in cursor])

    async def _pin(self, settings: dict[str, str]) -> None:
        for name, value in settings.items():
            await self._connection.execute("SELECT set_config(%s, %s, true)", [name, value])

    def _refused(self, subject: _Expression, why: str, hint: str | None = None) -> DefinitionError:
        return DefinitionError(f"counter {self._definition.name!r}: {subject.key} = {subject.text!r} {why}", hint=hint)


def _scale(typmod: int) -> int | None:
    """Return the scale in a numeric's typmod: 11 bits with a sign, as in `numeric_typmod_scale`."""
    if typmod < 4:  # noqa: PLR2004 - VARHDRSZ; below it no precision was declared
        return None
    return (((typmod - 4) & 0x7FF) ^ 1024) - 1024


def _primary(error: psycopg.Error) -> str:
    # What follows the expression in our query, such as a line break, may be quoted in it.
    return " ".join((error.diag.message_primary or str(error)).split())
