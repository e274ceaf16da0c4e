"""Whether capture still sees every change of the counted tables: partitions come and go, triggers get disabled.

Only reads. The same rules serve the plan, which closes holes, and whoever only looks for them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_counter.core.holes import Hole
from cdc_counter.postgres.capture import Event, trigger_name
from cdc_counter.postgres.installed import (
    InstalledCounter,
    InstalledFunction,
    InstalledTrigger,
    installed_counters,
    installed_functions,
    installed_guards,
    installed_triggers,
    installed_views,
)
from cdc_counter.postgres.moves import guard_names
from cdc_counter.postgres.outbox_ring import LEAVES, leaf_name
from cdc_counter.postgres.rendering import block, identifier_text, qualified


@dataclass(frozen=True, slots=True)
class Tree:
    """A counted table with its partitions at every level: `members` maps oid to the name as SQL, itself first."""

    oid: int
    quoted: str
    members: Mapping[int, str]
    is_partitioned: bool
    is_partition: bool = False


@dataclass(frozen=True, slots=True)
class Capturing:
    """What captures, as the catalog has it. `functions` are by name, `views` are names of truth views.

    `guards` are the row triggers that a partitioned table needs beside `triggers`.
    """

    schema: str
    triggers: Sequence[InstalledTrigger]
    guards: Sequence[InstalledTrigger]
    functions: Mapping[str, InstalledFunction]
    views: Collection[str]

    def calling(self, relation: int) -> frozenset[str]:
        """Return the functions that the triggers of a relation call."""
        return frozenset(trigger.function for trigger in self.triggers if trigger.relation == relation)


async def coverage(connection: AsyncConnection[Any], schema: str) -> list[Hole]:
    """Return every hole in capture; none when all is well or nothing is installed."""
    counters = await installed_counters(connection, schema)
    if not counters:
        return []
    triggers = await installed_triggers(connection, schema)
    functions = await installed_functions(connection, schema)
    guards = await installed_guards(connection, schema)
    capturing = Capturing(schema, triggers, guards, functions, await installed_views(connection, schema))
    trees = await _trees(connection, schema)
    holes = []
    for tree in trees:
        of_tree = [counter for counter in counters if counter.relation == tree.oid]
        holes += tree_holes(tree, of_tree, capturing, capturing.calling(tree.oid))
    if fault := await _outbox_fault(connection, schema):
        outbox = identifier_text(schema, "outbox")
        holes += [
            Hole(outbox, tuple(c.name for c in counters if c.relation == tree.oid), fault, tree.oid, by_hand=True)
            for tree in trees
        ]
    there = {tree.oid for tree in trees}
    holes += [
        Hole(counter.definition.table, (counter.name,), "was dropped", counter.relation)
        for counter in counters
        if counter.relation not in there
    ]
    return holes


def tree_holes(
    tree: Tree, counters: Sequence[InstalledCounter], capturing: Capturing, functions: frozenset[str]
) -> list[Hole]:
    """Return the holes of one table. `functions`: what its triggers ought to call."""
    names = tuple(counter.name for counter in counters)
    found: dict[str, list[str]] = defaultdict(list)
    if tree.is_partition:
        found[tree.quoted].append("has become a partition of another table")
    by_relation: dict[int, dict[str, InstalledTrigger]] = defaultdict(dict)
    for trigger in capturing.triggers:
        by_relation[trigger.relation][trigger.name] = trigger
        if trigger.function in functions and trigger.relation not in tree.members:
            found[trigger.quoted_relation] = [f"is no longer part of {tree.quoted}"]
    for oid, quoted in tree.members.items():
        found[quoted] += _trigger_faults(by_relation[oid], functions, capturing.schema)
        if tree.is_partitioned:
            found[quoted] += _guard_faults(oid, capturing)
    for counter in counters:
        for quoted, reason in _moved(tree, counter):
            found[quoted] = found[quoted] or [reason]
    holes = [Hole(quoted, names, reason, tree.oid) for quoted, reasons in found.items() for reason in reasons]
    holes += [
        Hole(f"view {identifier_text(capturing.schema, counter.name)}", names, "is gone", tree.oid)
        for counter in counters
        if counter.name not in capturing.views
    ]
    replaced = [name for name in sorted(functions) if name in capturing.functions and capturing.functions[name].altered]
    holes += [
        Hole(f"function {identifier_text(capturing.schema, name)}", names, "was replaced", tree.oid)
        for name in replaced
    ]
    return holes


def _trigger_faults(found: Mapping[str, InstalledTrigger], functions: frozenset[str], schema: str) -> Iterable[str]:
    triggers = {event: found.get(trigger_name(schema, event)) for event in Event}
    if missing := [event.name for event, trigger in triggers.items() if trigger is None]:
        yield f"has no trigger for {', '.join(missing)}"
    there = [trigger for trigger in triggers.values() if trigger is not None]
    if disabled := [trigger.name for trigger in there if trigger.enabled != "A"]:
        yield f"has triggers that are not enabled always: {', '.join(disabled)}"
    # Where the table itself has lost its triggers nothing is known of what they called.
    if foreign := [trigger.name for trigger in there if functions and trigger.function not in functions]:
        yield f"has triggers that call functions of another table: {', '.join(foreign)}"


def _guard_faults(relation: int, capturing: Capturing) -> Iterable[str]:
    enabled = {trigger.name: trigger.enabled for trigger in capturing.guards if trigger.relation == relation}
    if missing := [name for name in guard_names(capturing.schema) if enabled.get(name) != "A"]:
        yield f"has no guard for MERGE that is enabled always: {', '.join(missing)}"


def _moved(tree: Tree, counter: InstalledCounter) -> Iterable[tuple[str, str]]:
    """Yield the partitions that came or went since the counter was installed: their rows went uncounted."""
    known = counter.members
    if known is not None:
        yield from (
            (quoted, f"is no longer part of {tree.quoted}") for o, quoted in known.items() if o not in tree.members
        )
        yield from (
            (quoted, f"is a new part of {tree.quoted}") for oid, quoted in tree.members.items() if oid not in known
        )


async def _outbox_fault(connection: AsyncConnection[Any], schema: str) -> str | None:
    """Return why firings can't put their deltas into the outbox, and what to do; None when they can."""
    leaves = [leaf_name(part) for part in range(LEAVES)]
    names = {"schema": schema, "outbox": identifier_text(schema, "outbox"), "leaves": leaves}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(block("catalog", "outbox"), names)
        row = await cursor.fetchone() or {}
    if not row["there"]:
        return "is gone: rename it back, or drop the publication and run 'cdc-counter init --reseed'"
    if row["leaves"] != LEAVES:
        return f"has {row['leaves']} of its {LEAVES} partitions: put them back"
    if row["barred"]:
        return f"can't be written by {', '.join(row['barred'])}: grant INSERT on it and USAGE on its schema"
    return None


async def _trees(connection: AsyncConnection[Any], schema: str) -> list[Tree]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        counters = qualified(schema, "counters")
        await cursor.execute(block("catalog", "counted_relations").format(counters=counters))
        rows = await cursor.fetchall()
    members: dict[int, dict[int, str]] = defaultdict(dict)
    roots = {}
    for row in rows:
        members[row["root"]][row["oid"]] = identifier_text(row["schema"], row["table"])
        if row["oid"] == row["root"]:
            roots[row["root"]] = row
    return [
        Tree(oid, members[oid][oid], members[oid], bool(row["root_is_partitioned"]), bool(row["root_is_partition"]))
        for oid, row in roots.items()
    ]
