"""From what is declared and what is installed to the steps that close the gap.

Pure. A counter gets a new id, and with it a new start from nothing, when its numbers would mean something else than
before and when capture had a hole: whatever was counted across a hole can't be trusted.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    trigger_name,
    trigger_statements,
)
from cdc_counter.postgres.installed import Installed, InstalledCounter
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
    for relation, counters in tables:
        step = draft.table_step(relation, counters)
        if step is not None:
            steps.append(step)
    steps.extend(_leftovers(schema, installed, tables))
    return Plan(tuple(steps))


def removal_plan(schema: str, publication: str, installed: Installed) -> Plan:
    """Return the steps that remove everything of ours."""
    if not installed.schema_exists and not installed.publication_exists:
        return Plan(())
    if installed.schema_is_foreign:
        raise RefusedError(f"schema {schema!r} is not ours and is left alone", hint="check the schema's name")
    return Plan((*_leftovers(schema, installed, []), *own_objects.removal_steps(schema, publication)))


_Table = tuple[Relation, list[ProbedCounter]]


def _tables(probed: Iterable[ProbedCounter]) -> list[_Table]:
    tables: dict[int, _Table] = {}
    for counter in probed:
        tables.setdefault(counter.relation.oid, (counter.relation, []))[1].append(counter)
    return [tables[oid] for oid in sorted(tables, key=lambda oid: tables[oid][0].quoted)]


def capture_hole(installed: Installed, relation: Relation, schema: str) -> str | None:
    """Say which change of a table could have gone uncounted, or been counted without belonging to it."""
    found = {(t.relation, t.name): t for t in installed.triggers}
    for member in relation.members:
        for event in Event:
            trigger = found.get((member.oid, trigger_name(schema, event)))
            if trigger is None or trigger.function != function_name(relation, event):
                return f"{member.quoted} has no trigger for {event.name} of {schema}"
            if trigger.enabled != "A":
                return f"trigger {trigger.name} on {member.quoted} is not enabled always"
    ours = {function_name(relation, event) for event in Event}
    members = {member.oid for member in relation.members}
    for trigger in installed.triggers:
        if trigger.function in ours and trigger.relation not in members:
            return f"{trigger.quoted_relation} is no longer part of {relation.quoted}"
    return None


@dataclass(slots=True)
class _Draft:
    """Hands out ids while the steps are made."""

    schema: str
    installed: Installed
    next_id: int

    def table_step(self, relation: Relation, counters: Sequence[ProbedCounter]) -> Step | None:
        hole = capture_hole(self.installed, relation, self.schema)
        numbered, new = self._number(counters, has_hole=hole is not None)
        functions = capture_functions(relation, numbered, self.schema)
        kept = {counter.id for counter in numbered}
        names = {counter.definition.name for counter in counters}
        retired = [
            c for c in self.installed.counters if c.id not in kept and (c.name in names or c.relation == relation.oid)
        ]
        views = [_View.of(counter, self.schema) for counter in counters]
        if hole is None and not new and not retired and self._is_current(functions, views):
            return None
        statements = [
            render("capture", "lock_for_install", relation=raw(relation.quoted)),
            *self._guards(relation),
            render("schema", "lock_counters", counters=qualified(self.schema, "counters")),
            *(_retire(self.schema, counter) for counter in retired),
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

    def _is_current(self, functions: Iterable[CaptureFunction], views: Iterable["_View"]) -> bool:
        installed = self.installed
        return all(installed.functions.get(f.name) == f.hash for f in functions) and all(
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


def _retire(schema: str, counter: InstalledCounter) -> str:
    return render("schema", "retire_counter", counters=qualified(schema, "counters"), id=raw(str(counter.id)))


def _leftovers(schema: str, installed: Installed, tables: Sequence[_Table]) -> list[Step]:
    """Remove what is installed and no longer declared: counters, then triggers table by table, then functions."""
    relations = {relation.oid for relation, _ in tables}
    names = {counter.definition.name for _, counters in tables for counter in counters}
    members = {member.oid for relation, _ in tables for member in relation.members}
    functions = {function_name(relation, event) for relation, _ in tables for event in Event}
    gone = [c for c in installed.counters if c.name not in names and c.relation not in relations]
    retire = [_retire(schema, counter) for counter in gone]
    drop_views = [
        render("capture", "drop_view", view=qualified(schema, name)) for name in installed.views if name not in names
    ]
    steps = []
    if retire or drop_views:
        steps.append(Step("retire counters that are no longer declared", (*retire, *drop_views)))
    strays = sorted({t.quoted_relation for t in installed.triggers if t.relation not in members})
    for quoted in strays:
        lock = render("capture", "lock_for_removal", relation=raw(quoted))
        steps.append(Step(f"stop capturing {quoted}", (lock, *drop_trigger_statements(quoted, schema)), quoted))
    drop_functions = [
        render("capture", "drop_function", function=qualified(schema, name))
        for name in installed.functions
        if name not in functions
    ]
    if drop_functions:
        steps.append(Step("drop capture functions that nothing uses", tuple(drop_functions)))
    return steps
