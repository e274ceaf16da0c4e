"""What is installed: our objects as the catalog has them, and the counters that are being counted.

Only reads. What should be installed is `plan`'s business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.postgres.capture import COMMENT_PREFIX
from cdc_counter.postgres.rendering import block, identifier_text, qualified


@dataclass(frozen=True, slots=True)
class InstalledCounter:
    """A counter whose deltas are being captured. `fingerprint` is its declaration's.

    `members` are the relations captured when it was installed, by oid with their names as SQL; None: not known.
    """

    id: int
    name: str
    relation: int
    scale: int
    scoped: bool
    fingerprint: str
    meaning: str
    definition: CounterDefinition
    members: Mapping[int, str] | None = None

    @classmethod
    def from_row(cls, row: DictRow) -> "InstalledCounter":
        """Read a row of the table of counters."""
        document = row["definition"]
        members = document.get("members")
        return cls(
            id=row["id"],
            name=row["name"],
            relation=row["relation"],
            scale=row["scale"],
            scoped=row["scoped"],
            fingerprint=document["fingerprint"],
            meaning=document["meaning"],
            definition=CounterDefinition(
                name=row["name"],
                table=document["table"],
                where=document["where"],
                scope=tuple(document["scope"]),
                by=tuple(document["by"]),
                sum_of=document["sum_of"],
            ),
            members=None if members is None else {int(oid): quoted for oid, quoted in members.items()},
        )


@dataclass(frozen=True, slots=True)
class InstalledFunction:
    """A capture function. `altered`: it does something else than when it was installed."""

    hash: str
    altered: bool = False


@dataclass(frozen=True, slots=True)
class InstalledTrigger:
    """One of our triggers. `enabled` is `pg_trigger.tgenabled`; it should be `A`."""

    relation: int
    schema: str
    table: str
    name: str
    enabled: str
    function: str

    @property
    def quoted_relation(self) -> str:
        """The relation it is on, as SQL."""
        return identifier_text(self.schema, self.table)


@dataclass(frozen=True, slots=True)
class Installed:
    """Everything of ours in a database. Hashes are those of the COMMENTs, by object name; None: not there."""

    schema_exists: bool
    schema_is_foreign: bool
    schema_hash: str | None
    publication_exists: bool
    publication_is_ours: bool
    functions: dict[str, InstalledFunction]
    views: dict[str, str]
    triggers: tuple[InstalledTrigger, ...]
    guards: tuple[InstalledTrigger, ...]
    counters: tuple[InstalledCounter, ...]
    next_id: int


async def installed_counters(connection: AsyncConnection[Any], schema: str) -> list[InstalledCounter]:
    """Return the counters being captured, by id; none when nothing is installed."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT to_regclass(%s) IS NOT NULL AS there", [identifier_text(schema, "counters")])
        row = await cursor.fetchone()
        if row is None or not row["there"]:
            return []
        counters = qualified(schema, "counters")
        await cursor.execute(block("catalog", "counters").format(counters=counters))
        return [InstalledCounter.from_row(row) for row in await cursor.fetchall()]


async def installed_functions(connection: AsyncConnection[Any], schema: str) -> dict[str, InstalledFunction]:
    """Return our capture functions by name."""
    rows = await _rows(connection, "functions", {"schema": schema})
    return {row["name"]: _function(_hash(row["comment"]) or "", row["source"]) for row in rows}


async def installed_views(connection: AsyncConnection[Any], schema: str) -> dict[str, str]:
    """Return the hashes of our truth views by name."""
    rows = await _rows(connection, "views", {"schema": schema})
    return {row["name"]: _hash(row["comment"]) or "" for row in rows}


async def installed_triggers(connection: AsyncConnection[Any], schema: str) -> list[InstalledTrigger]:
    """Return our triggers that capture, wherever they are."""
    return await _triggers(connection, schema, row_triggers=False)


async def installed_guards(connection: AsyncConnection[Any], schema: str) -> list[InstalledTrigger]:
    """Return our row triggers on partitioned tables and their partitions."""
    return await _triggers(connection, schema, row_triggers=True)


async def _triggers(connection: AsyncConnection[Any], schema: str, *, row_triggers: bool) -> list[InstalledTrigger]:
    parameters = {"schema": schema, "row_triggers": row_triggers}
    return [InstalledTrigger(**row) for row in await _rows(connection, "triggers", parameters)]


async def read_installed(connection: AsyncConnection[Any], schema: str, publication: str) -> Installed:
    """Return everything of ours that is there."""
    names = {
        "schema": schema,
        "publication": publication,
        "outbox": identifier_text(schema, "outbox"),
        "counters": identifier_text(schema, "counters"),
    }
    bases = await _rows(connection, "base", names)
    publications = await _rows(connection, "publication", names)
    base = bases[0] if bases else None
    is_complete = base is not None and base["is_complete"]
    digest = _hash(base["comment"]) if base is not None else None
    return Installed(
        schema_exists=base is not None,
        schema_is_foreign=base is not None and digest is None and base["has_relations"],
        schema_hash=digest if is_complete else None,
        publication_exists=bool(publications),
        publication_is_ours=bool(publications) and bool(publications[0]["is_ours"]),
        functions=await installed_functions(connection, schema),
        views=await installed_views(connection, schema),
        triggers=tuple(await installed_triggers(connection, schema)),
        guards=tuple(await installed_guards(connection, schema)),
        counters=tuple(await installed_counters(connection, schema)),
        next_id=await _next_id(connection, schema) if is_complete else 1,
    )


async def _rows(connection: AsyncConnection[Any], name: str, parameters: dict[str, Any]) -> list[DictRow]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(block("catalog", name), parameters)
        return await cursor.fetchall()


async def _next_id(connection: AsyncConnection[Any], schema: str) -> int:
    statement: sql.Composed = block("catalog", "next_id").format(counters=qualified(schema, "counters"))
    cursor = await connection.execute(statement)
    row = await cursor.fetchone()
    return int(row[0]) if row else 1


def _function(digest: str, source: str) -> InstalledFunction:
    # Older releases noted no hash of the source: what they installed is replaced before it is looked at.
    noted = digest.partition(" ")[2]
    return InstalledFunction(digest, altered=noted not in {"", source})


def _hash(comment: str | None) -> str | None:
    return comment.removeprefix(COMMENT_PREFIX) if comment and comment.startswith(COMMENT_PREFIX) else None
