"""What PostgreSQL (15 to 18) hides from statement triggers when a MERGE writes to a partitioned table: two faults.

After a MERGE has inserted a row through the root, the NEW TABLE of its UPDATE holds that row in place of the updated
ones. A BEFORE INSERT row trigger on the partition, even one that never fires, makes it take the right rows:
nodeModifyTable.c sets `tcs_original_insert_tuple` only without one.

Rows that a MERGE moves to another partition are missing from its tables of UPDATE: they stand in those of DELETE and
INSERT, whose triggers fire only if the MERGE has such actions. So two more row triggers note that a partition key
changes and which row left its partition first. When the statement's OLD TABLE does not have that row, the counters are
marked as broken, which has them recounted. Pure.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from psycopg import sql

from cdc_counter.postgres.relations import Relation
from cdc_counter.postgres.rendering import literal_text, qualified, raw, render

KEY_FUNCTION: Final = "note_key_change"
MOVE_FUNCTION: Final = "note_move"
FUNCTIONS: Final = (KEY_FUNCTION, MOVE_FUNCTION)
"""In our schema; part of it whether or not a counted table is partitioned."""

_REASON: Final = "a MERGE moved rows between partitions, which statement triggers are not shown"


def guard_names(schema: str) -> tuple[str, str, str]:
    """Return the names of the three row triggers; they sort last, behind the application's own."""
    return f"zz_{schema[:50]}_row_new", f"zz_{schema[:50]}_row_key", f"zz_{schema[:50]}_row_moved"


def guard_statements(relation: Relation, schema: str) -> list[str]:
    """Return the statements that put the triggers on the root; PostgreSQL clones them to every partition."""
    new, key, moved = map(sql.Identifier, guard_names(schema))
    target = raw(relation.quoted)
    key_function, move_function = (qualified(schema, name) for name in FUNCTIONS)
    settings = _settings(relation, schema)
    guards = [
        render("capture", "new_row_guard", trigger=new, relation=target, function=key_function),
        render(
            "capture",
            "changed_key_guard",
            trigger=key,
            relation=target,
            condition=raw(_key_changes(relation)),
            changed=settings["changed"],
            function=key_function,
        ),
        render("capture", "moved_row_guard", trigger=moved, relation=target, function=move_function, **settings),
    ]
    return [
        *guards,
        *(render("capture", "enable_trigger", trigger=name, relation=target) for name in (new, key, moved)),
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
    return render("capture", "moved_check", broken=raw(entries), **_settings(relation, schema))


def unless_rows_move(relation: Relation, schema: str, statements: str) -> str:
    """Return statements of the capture function of UPDATE that trust its tables: not where rows may be missing."""
    if not relation.members[0].is_partitioned:
        return statements
    return render("capture", "unless_rows_move", statements=raw(statements), **_settings(relation, schema))


def _settings(relation: Relation, schema: str) -> dict[str, sql.SQL]:
    """Return the custom parameters that carry what is noted to the statement's trigger, as literals."""
    digest = hashlib.sha256(relation.quoted.encode()).hexdigest()[:8]
    return {word: raw(literal_text(f"{schema}.{word}_{digest}")) for word in ("changed", "moved")}


def _key_changes(relation: Relation) -> str:
    keys = {column for member in relation.members for column in member.key_columns}
    if any(member.has_key_expression for member in relation.members):
        # The row trigger is then called for every updated row, and what did not move is found at once.
        return "true"
    names = [sql.Identifier(column).as_string() for column in sorted(keys)]
    return " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in names)
