"""The counted table: found by the name in the declaration, refused when no trigger could see all its changes.

Only reads the catalog. A partitioned table comes with everything below it, for triggers are needed on each.
"""

import difflib
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_counter.errors import DefinitionError
from cdc_counter.postgres.rendering import block, identifier_text

PARTITIONED: Final = "p"
_ORDINARY: Final = "r"

_KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a composite type",
    "t": "a TOAST table",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One relation of a partition tree, or the table itself, with what its own partitions are chosen by."""

    oid: int
    schema: str
    name: str
    is_partitioned: bool
    key_columns: tuple[str, ...] = ()
    has_key_expression: bool = False

    @property
    def quoted(self) -> str:
        """The qualified name as SQL."""
        return identifier_text(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Relation:
    """A counted table. `members` begins with the table itself; the rest are its partitions at every level."""

    oid: int
    schema: str
    name: str
    members: tuple[Member, ...]

    @property
    def quoted(self) -> str:
        """The qualified name as SQL."""
        return identifier_text(self.schema, self.name)


async def find_relation(connection: AsyncConnection[Any], table: str, own_schema: str, counter: str) -> Relation:
    """Return the table a counter names; raises DefinitionError when there is none or it can't be counted."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        try:
            await cursor.execute(block("probe", "relation_facts"), {"table": table})
        except (psycopg.errors.InvalidName, psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported) as error:
            raise DefinitionError(
                f"counter {counter!r}: table {table!r} is not a name",
                hint='write it as in SQL: schema.table, "Odd name"',
            ) from error
        facts = await cursor.fetchone()
        if facts is None:
            await cursor.execute(block("probe", "similar_relations"))
            names = [str(row["relname"]) for row in await cursor.fetchall()]
            raise _missing(table, counter, names)
        refusal = _refusal(facts, own_schema)
        if refusal is not None:
            raise DefinitionError(f"counter {counter!r}: table {table!r} {refusal[0]}", hint=refusal[1])
        await cursor.execute(block("probe", "relation_tree"), {"oid": facts["oid"]})
        rows = await cursor.fetchall()
    for row in rows:
        refusal = _member_refusal(row)
        if refusal is not None:
            what = f"{row['nspname']}.{row['relname']}"
            raise DefinitionError(f"counter {counter!r}: table {what!r} {refusal[0]}", hint=refusal[1])
    members = tuple(
        Member(
            oid=row["oid"],
            schema=row["nspname"],
            name=row["relname"],
            is_partitioned=row["relkind"] == PARTITIONED,
            key_columns=tuple(row["key_columns"]),
            has_key_expression=row["has_key_expression"],
        )
        for row in rows
    )
    return Relation(facts["oid"], facts["nspname"], facts["relname"], members)


async def relation_exists(connection: AsyncConnection[Any], oid: int) -> bool:
    """Say whether there is a relation with this oid."""
    cursor = await connection.execute("SELECT EXISTS (SELECT FROM pg_class WHERE oid = %s)", [oid])
    row = await cursor.fetchone()
    return bool(row and row[0])


def _missing(table: str, counter: str, names: list[str]) -> DefinitionError:
    near = difflib.get_close_matches(table, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name an existing table, with its schema where needed"
    return DefinitionError(f"counter {counter!r}: table {table!r} does not exist", hint=hint)


def _refusal(facts: dict[str, Any], own_schema: str) -> tuple[str, str] | None:  # noqa: PLR0911 - one return per reason
    """Say why a table can't be counted and what to do instead; None when it can."""
    if facts["is_temporary"] or facts["relpersistence"] == "t":
        return "is temporary", "count a permanent table"
    if facts["relkind"] not in {_ORDINARY, PARTITIONED}:
        kind = _KINDS.get(facts["relkind"], "not a table")
        return f"is {kind}; only ordinary and partitioned tables have the triggers needed", "count the tables behind it"
    if facts["nspname"] in {"pg_catalog", "information_schema", "pg_toast"}:
        return "is a system catalog", "count a table of the application"
    if facts["nspname"] == own_schema:
        return "belongs to cdc-counter itself", "count a table of the application"
    if facts["relispartition"]:
        return "is a partition: changes through its root would not be seen", "count the partitioned table at the root"
    if facts["has_parent"] or (facts["has_children"] and facts["relkind"] == _ORDINARY):
        return "inherits or is inherited from: changes through its relatives would not be seen", (
            "use declarative partitioning, or count tables without inheritance"
        )
    if facts["encoding"] == "SQL_ASCII":
        return "is in a database with encoding SQL_ASCII, where a key is bytes that may be no text", (
            "move it to a database with encoding UTF8"
        )
    if facts["hides_rows"]:
        return "has row-level security that hides rows from this role: a recount would miss them", (
            "run this as the table's owner without FORCE ROW LEVEL SECURITY, or as a role with BYPASSRLS"
        )
    return None


def _member_refusal(row: dict[str, Any]) -> tuple[str, str] | None:
    if row["relkind"] not in {_ORDINARY, PARTITIONED}:
        return "is a foreign table: changes on the other server are not seen", "detach this partition"
    if row["relpersistence"] == "u":
        return "is unlogged: a crash empties it without any trigger", f"ALTER TABLE {row['relname']} SET LOGGED"
    if row["is_subscribed"]:
        return "is the target of a logical subscription, which fires no statement triggers", (
            "count the table on the publishing server"
        )
    return None
