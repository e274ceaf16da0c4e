"""The SQL that groups counted rows, shared by the truth view and the capture functions so that they can't disagree.

Pure. Rows are grouped by their raw keys; only the groups are turned into canonical text.
"""

from cdc_counter.postgres.key_types import canonical_key
from cdc_counter.postgres.probe import ProbedCounter
from cdc_counter.postgres.rendering import identifier_text, literal_text, raw, render


def truth_query(counter: ProbedCounter, schema: str) -> str:
    """Return the statement that creates or replaces a counter's truth view."""
    return render(
        "capture",
        "create_truth_view",
        view=raw(identifier_text(schema, counter.definition.name)),
        scope=raw(canonical_key(counter.scope)),
        bucket=raw(canonical_key(counter.by)),
        value=raw(_scaled(counter)),
        keys=raw(_key_list(counter)),
        total=raw(_total(counter)),
        rows=raw(counter.rows_of(counter.relation.quoted)),
        group_by=raw(_group_by(counter)),
    )


def entries_of_one_side(counter: ProbedCounter, counter_id: int, source: str, *, added: bool) -> str:
    """Return the query for the outbox entries of rows that all came, or all went."""
    grouped = render(
        "capture",
        "one_sided",
        keys=raw(_key_list(counter)),
        total=raw(_total(counter)),
        rows=raw(counter.rows_of(source)),
        group_by=raw(_group_by(counter)),
    )
    return _entries(counter, counter_id, grouped, "" if added else "-")


def entries_of_both_sides(counter: ProbedCounter, counter_id: int) -> str:
    """Return the query for the outbox entries of an UPDATE: new rows added, old rows subtracted."""
    measure = "1" if counter.sum_type is None else f"r.m::{counter.sum_type}"
    grouped = render(
        "capture",
        "two_sided",
        keys=raw(_key_list(counter)),
        plus=raw(measure),
        minus=raw(f"-({measure})"),
        new_rows=raw(counter.rows_of("new_rows")),
        old_rows=raw(counter.rows_of("old_rows")),
        group_by=raw(_group_by(counter)),
    )
    return _entries(counter, counter_id, grouped, "")


def entries_of_kinds(counter: ProbedCounter, counter_id: int, rows: str) -> str:
    """Return the query for the outbox entries of rows that were added up before; `rows` gives raw keys and sums `d`."""
    grouped = render(
        "capture",
        "one_sided",
        keys=raw(_key_list(counter)),
        total=raw("sum(r.d)"),
        rows=raw(rows),
        group_by=raw(_group_by(counter)),
    )
    return _entries(counter, counter_id, grouped, "")


def _entries(counter: ProbedCounter, counter_id: int, grouped: str, sign: str) -> str:
    return render(
        "capture",
        "rows_entries",
        id=raw(literal_text(str(counter_id))),
        scope=raw(canonical_key(counter.scope)),
        bucket=raw(canonical_key(counter.by)),
        delta=raw(_delta(counter, sign)),
        grouped=raw(grouped),
    )


def _delta(counter: ProbedCounter, sign: str) -> str:
    if counter.sum_type is None:
        return f"({sign}d)::text"
    if counter.sum_type != "numeric":
        return f"({sign}d)::text"
    # A sum that is not a number can't be kept: the conversion to bigint fails, and with it this counter's firing.
    return f"CASE WHEN d = 'NaN' THEN d::bigint::text ELSE ({sign}{_scaled(counter)})::text END"


def _scaled(counter: ProbedCounter) -> str:
    """Return the total as an integer: 12.34 with scale 2 is 1234. Trunc drops digits that are always 0."""
    if counter.sum_type is None:
        return "d::numeric"
    return f"trunc(d * 1{'0' * counter.scale}::numeric)"


def _total(counter: ProbedCounter) -> str:
    return "count(*)" if counter.sum_type is None else f"sum(r.m::{counter.sum_type})"


def _key_list(counter: ProbedCounter) -> str:
    return "".join(f"r.{column.name}, " for column in (*counter.scope, *counter.by))


def _group_by(counter: ProbedCounter) -> str:
    names = ", ".join(f"r.{column.name}" for column in (*counter.scope, *counter.by))
    return f"GROUP BY {names}" if names else ""
