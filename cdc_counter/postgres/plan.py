"""From what is declared and what is installed to the steps that close the gap.

Pure. A counter gets a new id, and with it a new start from nothing, when its numbers would mean something else than
before and when capture had a hole: whatever was counted across a hole can't be trusted.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cdc_counter.core.changes import Act, CounterChange, TableRepair, change_of
from cdc_counter.core.holes import Hole
from cdc_counter.core.outbox import RETIRED
from cdc_counter.errors import RefusedError
from cdc_counter.postgres import counting, own_objects
from cdc_counter.postgres.capture import (
    CaptureFunction,
    Event,
    NumberedCounter,
    capture_functions,
    comment_text,
    drop_trigger_statements,
    function_name,
    trigger_statements,
)
from cdc_counter.postgres.coverage import Capturing, Tree, tree_holes
from cdc_counter.postgres.installed import Installed, InstalledCounter, InstalledTrigger
from cdc_counter.postgres.probe import ProbedCounter
from cdc_counter.postgres.relations import Relation
from cdc_counter.postgres.rendering import content_hash, literal_text, qualified, raw, render
from cdc_counter.postgres.steps import Plan, Step


def make_plan(schema: str, publication: str, probed: Sequence[ProbedCounter], installed: Installed) -> Plan:
    """Return the steps from `installed` to what is declared; raises RefusedError on objects that are not ours."""
    if installed.schema_is_foreign:
        raise RefusedError(
            f"schema {schema!r} exists and is not ours: it holds tables and has no comment of cdc-counter",
            hint="choose another schema, or drop it if nothing needs it",
        )
    if installed.publication_exists and not installed.publication_is_ours:
        raise RefusedError(
            f"publication {publication!r} exists but is not the insert-only publication of {schema}.outbox",
            hint="choose another publication name, or drop this one and run init again",
        )
    steps = []
    if installed.schema_hash != own_objects.schema_hash(schema):
        steps.append(own_objects.schema_step(schema))
    if not installed.publication_exists:
        steps.append(own_objects.publication_step(schema, publication))
    tables = _tables(probed)
    draft = _Draft(schema, installed, installed.next_id)
    steps += draft.table_steps(tables)
    steps += _leftovers(schema, installed, tables)
    removed = sorted({c.name for c in installed.counters} - {c.definition.name for c in probed})
    draft.changes += [CounterChange(name, Act.REMOVE) for name in removed]
    return Plan(tuple(steps), tuple(draft.changes), tuple(draft.repairs))


def healing_plan(schema: str, probed: Sequence[ProbedCounter], installed: Installed) -> Plan:
    """Return the steps that close the holes of these counters' tables; nothing of other tables is touched.

    `probed` are all counters that are installed on these tables, as they are installed: none is added or removed.
    """
    draft = _Draft(schema, installed, installed.next_id)
    tables = _tables(probed)
    steps = draft.table_steps(tables)
    members = {member.oid for relation, _ in tables for member in relation.members}
    capturing = Capturing(schema, installed.triggers, installed.guards, installed.functions, installed.views)
    ours = {name for relation, _ in tables for name in capturing.calling(relation.oid)}
    ours |= {function_name(relation, event) for relation, _ in tables for event in Event}
    strays = [t for t in installed.triggers if t.relation not in members and t.function in ours]
    steps += _release(schema, strays)
    return Plan(tuple(steps), tuple(draft.changes), tuple(draft.repairs))


def removal_plan(schema: str, publication: str, installed: Installed) -> Plan:
    """Return the steps that remove everything of ours that is there."""
    if installed.schema_is_foreign:
        raise RefusedError(f"schema {schema!r} is not ours and is left alone", hint="check the schema's name")
    steps = _leftovers(schema, installed, [])
    if installed.publication_exists:
        steps.append(own_objects.publication_removal(publication))
    if installed.schema_exists:
        steps.append(own_objects.schema_removal(schema))
    return Plan(tuple(steps))


_Table = tuple[Relation, list[ProbedCounter]]


def _tables(probed: Iterable[ProbedCounter]) -> list[_Table]:
    tables: dict[int, _Table] = {}
    for counter in probed:
        tables.setdefault(counter.relation.oid, (counter.relation, []))[1].append(counter)
    return [tables[oid] for oid in sorted(tables, key=lambda oid: tables[oid][0].quoted)]


def capture_holes(installed: Installed, relation: Relation, schema: str) -> list[Hole]:
    """Return which changes of a table could have gone uncounted, or been counted without belonging to it."""
    members = {member.oid: member.quoted for member in relation.members}
    tree = Tree(relation.oid, relation.quoted, members, relation.members[0].is_partitioned)
    counters = [counter for counter in installed.counters if counter.relation == relation.oid]
    capturing = Capturing(schema, installed.triggers, installed.guards, installed.functions, installed.views)
    # Those of its former name, too: a table that was renamed lost nothing.
    functions = {function_name(relation, event) for event in Event} | capturing.calling(relation.oid)
    return tree_holes(tree, counters, capturing, frozenset(functions))


@dataclass(slots=True)
class _Draft:
    """Hands out ids while the steps are made."""

    schema: str
    installed: Installed
    next_id: int
    changes: list[CounterChange] = field(default_factory=list)
    repairs: list[TableRepair] = field(default_factory=list)

    def table_steps(self, tables: Iterable["_Table"]) -> list[Step]:
        steps = [self._table_step(relation, counters) for relation, counters in tables]
        return [step for step in steps if step is not None]

    def _table_step(self, relation: Relation, counters: Sequence[ProbedCounter]) -> Step | None:
        holes = capture_holes(self.installed, relation, self.schema)
        numbered, new = self._number(counters, has_hole=bool(holes))
        self._note(relation, counters, holes)
        functions = capture_functions(relation, numbered, self.schema)
        kept = {counter.id for counter in numbered}
        names = {counter.definition.name for counter in counters}
        retired = [
            c for c in self.installed.counters if c.id not in kept and (c.name in names or c.relation == relation.oid)
        ]
        views = [_View.of(counter, self.schema) for counter in counters]
        if not holes and not new and not retired and self._is_current(functions, views):
            return None
        statements = [
            render("capture", "lock_for_install", relation=raw(relation.quoted)),
            *self._guards(relation),
            render("schema", "lock_counters", counters=qualified(self.schema, "counters")),
            *(statement for counter in retired for statement in _retire(self.schema, counter)),
            *(_insert(self.schema, counter) for counter in new),
            *(statement for function in functions for statement in function.statements),
            *(s for member in relation.members for s in trigger_statements(member, relation, self.schema)),
            *(statement for view in views for statement in view.statements),
        ]
        return Step(_title(relation, counters), tuple(statements), relation.quoted)

    def _number(
        self, counters: Sequence[ProbedCounter], *, has_hole: bool
    ) -> tuple[list[NumberedCounter], list[NumberedCounter]]:
        known = {counter.name: counter for counter in self.installed.counters}
        numbered, new = [], []
        for counter in counters:
            old = known.get(counter.definition.name)
            if old is not None and not has_hole and _is_same(old, counter):
                numbered.append(NumberedCounter(old.id, counter))
                continue
            numbered.append(NumberedCounter(self.next_id, counter))
            new.append(numbered[-1])
            self.next_id += 1
        return numbered, new

    def _note(self, relation: Relation, counters: Sequence[ProbedCounter], holes: Sequence[Hole]) -> None:
        """Note what becomes of the counters, and what is mended for those that are there already."""
        known = {counter.name: counter for counter in self.installed.counters}
        for counter in counters:
            name, old = counter.definition.name, known.get(counter.definition.name)
            before = None if old is None else old.definition
            same = old is not None and _is_same(old, counter)
            self.changes.append(change_of(name, before, counter.definition, same=same, hole=bool(holes)))
        counted = tuple(c.definition.name for c in counters if c.definition.name in known)
        if holes and any(counter.relation == relation.oid for counter in self.installed.counters):
            self.repairs.append(TableRepair(relation.quoted, tuple(map(str, holes)), counted))

    def _is_current(self, functions: Iterable[CaptureFunction], views: Iterable["_View"]) -> bool:
        installed = self.installed
        there = {name: function.hash for name, function in installed.functions.items()}
        return all(there.get(f.name) == f.hash for f in functions) and all(
            installed.views.get(view.name) == view.hash for view in views
        )

    def _guards(self, relation: Relation) -> list[str]:
        if not relation.members[0].is_partitioned:
            return []
        return [
            render(
                "schema",
                "check_partitions",
                relation=raw(literal_text(relation.quoted)),
                count=raw(str(len(relation.members))),
            )
        ]


@dataclass(frozen=True, slots=True)
class _View:
    name: str
    hash: str
    statements: tuple[str, ...]

    @classmethod
    def of(cls, counter: ProbedCounter, schema: str) -> "_View":
        create = counting.truth_query(counter, schema)
        digest = content_hash(create)
        name = counter.definition.name
        comment = render("capture", "comment_view", view=qualified(schema, name), comment=raw(comment_text(digest)))
        return cls(name, digest, (create, comment))


def _is_same(old: InstalledCounter, new: ProbedCounter) -> bool:
    return (old.relation, old.fingerprint, old.meaning) == (
        new.relation.oid,
        new.definition.fingerprint,
        new.meaning,
    )


def _title(relation: Relation, counters: Sequence[ProbedCounter]) -> str:
    names = ", ".join(counter.definition.name for counter in counters)
    return f"capture {relation.schema}.{relation.name} for {names}"


def _insert(schema: str, counter: NumberedCounter) -> str:
    probed = counter.probed
    definition = probed.definition
    document = {
        "fingerprint": definition.fingerprint,
        "meaning": probed.meaning,
        "table": definition.table,
        "where": definition.where,
        "scope": definition.scope,
        "by": definition.by,
        "sum_of": definition.sum_of,
        "members": {str(member.oid): member.quoted for member in probed.relation.members},
    }
    return render(
        "schema",
        "insert_counter",
        counters=qualified(schema, "counters"),
        id=raw(str(counter.id)),
        name=raw(literal_text(definition.name)),
        relation=raw(literal_text(probed.relation.quoted)),
        definition=raw(literal_text(json.dumps(document))),
        scale=raw(str(probed.scale)),
        scoped=raw(str(probed.scoped).lower()),
    )


def _retire(schema: str, counter: InstalledCounter) -> tuple[str, str]:
    deltas = json.dumps([[counter.id, RETIRED, "the counter was altered, recounted or removed"]], separators=(",", ":"))
    return (
        render("schema", "retire_counter", counters=qualified(schema, "counters"), id=raw(str(counter.id))),
        render(
            "schema",
            "announce_retirement",
            outbox=qualified(schema, "outbox"),
            deltas=raw(literal_text(deltas)),
        ),
    )


def _leftovers(schema: str, installed: Installed, tables: Sequence[_Table]) -> list[Step]:
    """Remove what is installed and no longer declared: counters, then triggers table by table, then functions."""
    relations = {relation.oid for relation, _ in tables}
    names = {counter.definition.name for _, counters in tables for counter in counters}
    members = {member.oid for relation, _ in tables for member in relation.members}
    functions = {function_name(relation, event) for relation, _ in tables for event in Event}
    gone = [c for c in installed.counters if c.name not in names and c.relation not in relations]
    retire = [statement for counter in gone for statement in _retire(schema, counter)]
    drop_views = [
        render("capture", "drop_view", view=qualified(schema, name)) for name in installed.views if name not in names
    ]
    steps = []
    if retire or drop_views:
        steps.append(Step("retire counters that are no longer declared", (*retire, *drop_views)))
    steps += _release(schema, [trigger for trigger in installed.triggers if trigger.relation not in members])
    drop_functions = [
        render("capture", "drop_function", function=qualified(schema, name))
        for name in installed.functions
        if name not in functions
    ]
    if drop_functions:
        steps.append(Step("drop capture functions that nothing uses", tuple(drop_functions)))
    return steps


def _release(schema: str, strays: Iterable[InstalledTrigger]) -> list[Step]:
    """Remove our triggers from tables that are not, or no longer, counted."""
    steps = []
    for quoted in sorted({trigger.quoted_relation for trigger in strays}):
        lock = render("capture", "lock_for_removal", relation=raw(quoted))
        steps.append(Step(f"stop capturing {quoted}", (lock, *drop_trigger_statements(quoted, schema)), quoted))
    return steps
