"""The capture functions and triggers of one counted table, as SQL text.

Pure. One function per event holds all counters of the table; every relation of a partition tree gets the four triggers,
for a statement fires only the triggers of the relation that it names.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from psycopg import sql

from cdc_counter.postgres import counting, kinds, moves, one_row
from cdc_counter.postgres.outbox_ring import enter_statements, store_statements, store_variables
from cdc_counter.postgres.probe import ProbedCounter
from cdc_counter.postgres.relations import Member, Relation
from cdc_counter.postgres.rendering import (
    content_hash,
    dollar_quoted,
    identifier_text,
    literal_text,
    qualified,
    raw,
    render,
)
from cdc_counter.postgres.settings import function_settings

COMMENT_PREFIX: Final = "cdc-counter "
"""Opens the COMMENT of everything that is ours; the hash of its SQL follows."""

_HOLDER: Final = "%1$I.%2$I"


class Event(Enum):
    """The four statements that are captured."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"


_SIGNS: Final = {
    Event.INSERT: {"new_rows": ""},
    Event.UPDATE: {"new_rows": "", "old_rows": "-"},
    Event.DELETE: {"old_rows": "-"},
}
"""How the rows of each transition table count."""


@dataclass(frozen=True, slots=True)
class NumberedCounter:
    """A counter with the id that its outbox entries carry."""

    id: int
    probed: ProbedCounter


@dataclass(frozen=True, slots=True)
class CaptureFunction:
    """One capture function: its name in our schema, and the statements that create it."""

    event: Event
    name: str
    hash: str
    statements: tuple[str, ...]


def capture_functions(relation: Relation, counters: Sequence[NumberedCounter], schema: str) -> list[CaptureFunction]:
    """Return the four functions of a table; the counters' order does not matter."""
    ordered = sorted(counters, key=lambda counter: counter.id)
    return [_function(relation, ordered, schema, event) for event in Event]


def function_name(relation: Relation, event: Event) -> str:
    """Return a readable name of at most 63 bytes that no other table shares."""
    readable = re.sub(r"\W", "_", relation.name.lower(), flags=re.ASCII)[:32]
    digest = hashlib.sha256(relation.quoted.encode()).hexdigest()[:8]
    return f"capture_{event.value}_{readable}_{digest}"


def trigger_name(schema: str, event: Event) -> str:
    """Return a name that sorts last, so that an application's own BEFORE TRUNCATE triggers fire before ours.

    With our schema's name in it two installations can count one table.
    """
    return f"zz_{schema[:50]}_{event.value}"


def trigger_statements(member: Member, relation: Relation, schema: str) -> list[str]:
    """Return the statements that create or repair one relation's triggers; none of them locks out readers."""
    statements = []
    for event in Event:
        trigger = sql.Identifier(trigger_name(schema, event))
        function = qualified(schema, function_name(relation, event))
        target = raw(member.quoted)
        statements.append(
            render("capture", f"{event.value}_trigger", trigger=trigger, relation=target, function=function)
        )
        statements.append(render("capture", "enable_trigger", trigger=trigger, relation=target))
    if member.is_partitioned and member.oid == relation.oid:
        statements += moves.guard_statements(relation, schema)
    return statements


def drop_trigger_statements(quoted_relation: str, schema: str) -> list[str]:
    """Return the statements that remove one relation's triggers."""
    return [
        *moves.drop_guard_statements(quoted_relation, schema),
        *(
            render(
                "capture",
                "drop_trigger",
                trigger=sql.Identifier(trigger_name(schema, event)),
                relation=raw(quoted_relation),
            )
            for event in Event
        ),
    ]


def _function(relation: Relation, counters: Sequence[NumberedCounter], schema: str, event: Event) -> CaptureFunction:
    name = function_name(relation, event)
    function = qualified(schema, name)
    store = store_statements(schema, (counter.id for counter in counters))
    body = (
        _truncate_body(counters, store)
        if event is Event.TRUNCATE
        else _row_body(relation, counters, schema, event, store)
    )
    create = render(
        "capture",
        "create_function",
        function=function,
        settings=raw(function_settings(converts=_converts(relation, counters, event))),
        body=raw(dollar_quoted(body, "capture")),
    )
    # The second hash is of what PostgreSQL keeps as the source: somebody who replaces the function leaves the COMMENT.
    digest = f"{content_hash(create)} {content_hash(f'{chr(10)}{body}{chr(10)}')}"
    return CaptureFunction(
        event,
        name,
        digest,
        (
            create,
            render("capture", "close_function", function=function),
            render("capture", "comment_function", function=function, comment=raw(comment_text(digest))),
        ),
    )


def comment_text(digest: str) -> str:
    """Return the literal of a COMMENT that carries a hash."""
    return literal_text(COMMENT_PREFIX + digest)


def _row_body(
    relation: Relation, counters: Sequence[NumberedCounter], schema: str, event: Event, store: sql.SQL
) -> str:
    queries = [(counter.id, _row_entries(counter, event)) for counter in counters]
    one_by_one = [
        render("capture", "one_counter", id=raw(str(counter_id)), entries=raw(query)) for counter_id, query in queries
    ]
    numbered = [(counter.id, counter.probed) for counter in counters]
    all_counters = render("capture", "grouped", entries=raw("\nUNION ALL\n".join(query for _, query in queries)))
    ids = [counter.id for counter in counters]
    return render(
        "capture",
        "row_change_body",
        one_row=raw(_one_row(relation, counters, schema, event)),
        all_counters=raw(kinds.grouped_at_once(numbered, _SIGNS[event], all_counters)),
        one_by_one=raw("\n".join(one_by_one)),
        moved_check=raw(moves.moved_check(relation, schema, ids) if event is Event.UPDATE else ""),
        store=store,
        store_variables=store_variables(),
    )


def _converts(relation: Relation, counters: Sequence[NumberedCounter], event: Event) -> bool:
    """Say whether more than canonical keys, which heed no settings, is converted from or to text."""
    compares_moved_rows = event is Event.UPDATE and relation.members[0].is_partitioned
    return compares_moved_rows or any(counter.probed.heeds_settings for counter in counters)


def _one_row(relation: Relation, counters: Sequence[NumberedCounter], schema: str, event: Event) -> str:
    """Return what is done about a statement that changed one row; nothing where that is not to be had."""
    numbered = [(counter.id, counter.probed) for counter in counters]
    match event:
        case Event.INSERT:
            find, rows = one_row.insert_entries(numbered), "SELECT FROM new_rows"
        case Event.DELETE:
            find, rows = one_row.delete_entries(numbered), "SELECT FROM old_rows"
        case _:
            find, rows = one_row.update_entries(numbered), "SELECT FROM new_rows UNION ALL SELECT FROM old_rows"
    if not find:
        return ""
    statements = render(
        "capture",
        "one_row",
        find=raw(find),
        enter=raw(enter_statements(schema)),
        outbox=qualified(schema, "outbox"),
        outbox_name=raw(literal_text(identifier_text(schema, "outbox"))),
        rows=raw(rows),
    )
    return moves.unless_rows_move(relation, schema, statements) if event is Event.UPDATE else statements


def _row_entries(counter: NumberedCounter, event: Event) -> str:
    match event:
        case Event.INSERT:
            return counting.entries_of_one_side(counter.probed, counter.id, "new_rows", added=True)
        case Event.DELETE:
            return counting.entries_of_one_side(counter.probed, counter.id, "old_rows", added=False)
        case _:
            return counting.entries_of_both_sides(counter.probed, counter.id)


def _truncate_body(counters: Sequence[NumberedCounter], store: sql.SQL) -> str:
    blocks = []
    for counter in counters:
        # The relation is known when the trigger fires: format() puts it in, so percent signs of ours are doubled.
        entries = counting.entries_of_one_side(counter.probed, counter.id, "<relation>", added=False)
        query = render("capture", "truncate_query", entries=raw(entries))
        template = query.replace("%", "%%").replace("<relation>", f"ONLY {_HOLDER}")
        blocks.append(
            render(
                "capture",
                "truncate_counter",
                id=raw(str(counter.id)),
                query=raw(dollar_quoted(template, "query")),
            )
        )
    return render(
        "capture", "truncate_body", counters=raw("\n".join(blocks)), store=store, store_variables=store_variables()
    )
