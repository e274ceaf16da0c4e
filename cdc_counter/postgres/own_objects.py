"""Our own schema, outbox, ledger and publication, as steps.

Pure. Each step's SQL can be run again on top of what is there.
"""

from psycopg import sql

from cdc_counter.postgres import moves
from cdc_counter.postgres.capture import comment_text
from cdc_counter.postgres.outbox_ring import LEAVES, current_part, leaf_name
from cdc_counter.postgres.rendering import content_hash, qualified, raw, render
from cdc_counter.postgres.settings import function_settings
from cdc_counter.postgres.steps import Step


def schema_step(schema: str) -> Step:
    """Return the step that creates everything in our schema."""
    return Step(f"create schema {schema} with the outbox", (*_schema_statements(schema), _comment(schema)))


def schema_hash(schema: str) -> str:
    """Return the hash in the schema's COMMENT once it is complete."""
    return content_hash("\n".join(_schema_statements(schema)))


def publication_step(schema: str, publication: str) -> Step:
    """Return the step that creates the publication of the outbox's inserts."""
    create = render(
        "schema", "create_publication", publication=sql.Identifier(publication), outbox=qualified(schema, "outbox")
    )
    comment = render(
        "schema",
        "comment_publication",
        publication=sql.Identifier(publication),
        comment=raw(comment_text(content_hash(create))),
    )
    return Step(f"create publication {publication}", (create, comment))


def publication_removal(publication: str) -> Step:
    """Return the step that removes what `publication_step` made."""
    drop = render("schema", "drop_publication", publication=sql.Identifier(publication))
    return Step(f"drop publication {publication}", (drop,))


def schema_removal(schema: str) -> Step:
    """Return the step that removes what `schema_step` made."""
    return Step(
        f"drop schema {schema}",
        (
            render("schema", "drop_ledger", ledger=qualified(schema, "ledger")),
            *(render("schema", "drop_function", function=qualified(schema, name)) for name in moves.FUNCTIONS),
            render("schema", "drop_outbox", outbox=qualified(schema, "outbox")),
            render("schema", "drop_counters", counters=qualified(schema, "counters")),
            render("schema", "drop_schema", schema=sql.Identifier(schema)),
        ),
    )


def _schema_statements(schema: str) -> list[str]:
    outbox = qualified(schema, "outbox")
    counters = qualified(schema, "counters")
    leaves = [qualified(schema, leaf_name(part)) for part in range(LEAVES)]
    return [
        render("schema", "create_schema", schema=sql.Identifier(schema)),
        render("schema", "close_schema", schema=sql.Identifier(schema)),
        render("schema", "create_outbox", outbox=outbox, part=current_part()),
        *(
            render("schema", "create_outbox_leaf", leaf=leaf, outbox=outbox, part=sql.Literal(part))
            for part, leaf in enumerate(leaves)
        ),
        *(render("schema", "close_outbox", outbox=table) for table in (outbox, *leaves)),
        render("schema", "create_counters", counters=counters),
        render("schema", "create_counters_index", counters=counters),
        render("schema", "close_counters", counters=counters),
        render("schema", "create_ledger", ledger=qualified(schema, "ledger"), outbox=outbox, counters=counters),
        render("schema", "create_note_key_change", function=qualified(schema, moves.KEY_FUNCTION)),
        render(
            "schema",
            "create_note_move",
            function=qualified(schema, moves.MOVE_FUNCTION),
            settings=raw(function_settings()),
        ),
        *(render("schema", "close_function", function=qualified(schema, name)) for name in moves.FUNCTIONS),
    ]


def _comment(schema: str) -> str:
    return render(
        "schema", "comment_schema", schema=sql.Identifier(schema), comment=raw(comment_text(schema_hash(schema)))
    )
