"""What PostgreSQL (15 to 18) hides from statement triggers when a MERGE writes to a partitioned table: two faults.

After a MERGE has inserted a row through the root, the NEW TABLE of its UPDATE holds that row in place of the updated
ones. A BEFORE INSERT row trigger on the partition, even one that never fires, makes it take the right rows:
nodeModifyTable.c sets `tcs_original_insert_tuple` only without one.

Rows that a MERGE moves to another partition are missing from its tables of UPDATE: they stand in those of DELETE and
INSERT, whose triggers fire only if the MERGE has such actions. So a BEFORE UPDATE row trigger notes the first row whose
partition key changes. When the statement's OLD TABLE does not have it, the counters are marked as broken, which has
them recounted. Pure.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from psycopg import sql

from cdc_counter.postgres.relations import Relation
from cdc_counter.postgres.rendering import literal_text, qualified, raw, render

FUNCTION: Final = "note_move"
"""In our schema; part of it whether or not a counted table is partitioned."""

_REASON: Final = "a MERGE moved rows between partitions, which statement triggers are not shown"


def guard_names(schema: str) -> tuple[str, str]:
    """Return the names of the two row triggers; they sort last, behind the application's own."""
    return f"zz_{schema[:50]}_row_new", f"zz_{schema[:50]}_row_move"


def guard_statements(relation: Relation, schema: str) -> list[str]:
    """Return the statements that put both triggers on the root; PostgreSQL clones them to every partition."""
    new, move = map(sql.Identifier, guard_names(schema))
    target, function = raw(relation.quoted), qualified(schema, FUNCTION)
    setting = raw(literal_text(setting_name(relation, schema)))
    return [
        render("capture", "new_row_guard", trigger=new, relation=target, function=function),
        render("capture", "enable_trigger", trigger=new, relation=target),
        render(
            "capture",
            "moved_row_guard",
            trigger=move,
            relation=target,
            changed=raw(_key_changes(relation)),
            function=function,
            setting=setting,
        ),
        render("capture", "enable_trigger", trigger=move, relation=target),
    ]


def drop_guard_statements(quoted_relation: str, schema: str) -> list[str]:
    """Return the statements that remove the triggers where they are not clones; those go with their originals."""
    return [
        render("capture", "drop_guard", relation=raw(literal_text(quoted_relation)), trigger=raw(literal_text(name)))
        for name in guard_names(schema)
    ]


def moved_check(relation: Relation, schema: str, counters: Iterable[int]) -> str:
    """Return what the capture function of UPDATE does about moved rows: nothing, for a table without partitions."""
    if not relation.members[0].is_partitioned:
        return ""
    entries = ", ".join(literal_text(f'[{number},"0A000","{_REASON}"]') for number in counters)
    return render(
        "capture", "moved_check", setting=raw(literal_text(setting_name(relation, schema))), broken=raw(entries)
    )


def setting_name(relation: Relation, schema: str) -> str:
    """Return the custom parameter that holds the first moved row until the statement's trigger has looked at it."""
    return f"{schema}.moved_{hashlib.sha256(relation.quoted.encode()).hexdigest()[:8]}"


def _key_changes(relation: Relation) -> str:
    keys = {column for member in relation.members for column in member.key_columns}
    if any(member.has_key_expression for member in relation.members):
        # The row trigger is then called for every updated row, and what did not move is found at once.
        return "true"
    names = [sql.Identifier(column).as_string() for column in sorted(keys)]
    return " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in names)
