"""What writers do: every way in which rows come, change and go, chosen at random for tables never seen before.

Pure. A statement is SQL as the server gets it; which one comes next follows from the random generator alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

from cdc_counter.soak.rows import Rows, literal
from cdc_counter.soak.schema import quoted


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement and what it is an example of. With `rows` it is a COPY that is sent them."""

    kind: str
    sql: str
    rows: tuple[tuple[str | None, ...], ...] = ()


Choice = Callable[[Rows, Random], str | None]
"""SQL, or None where the table does not allow it."""

_OWN_LIST: Final = "'soak'"
"""What a partition of the soak's own making is for."""

_STAYING: Final = 0.97


def insert_one(rows: Rows, random: Random) -> str:
    """Insert one row."""
    return f"INSERT INTO {rows.table.name} {rows.target} VALUES ({rows.row(random)})"


def insert_several(rows: Rows, random: Random) -> str:
    """Insert some rows, listed."""
    listed = ", ".join(f"({rows.row(random)})" for _ in range(random.randint(2, 6)))
    return f"INSERT INTO {rows.table.name} {rows.target} VALUES {listed}"


def insert_many(rows: Rows, random: Random) -> str:
    """Insert up to hundreds of rows in one statement."""
    count = random.randint(20, 200)
    return (
        f"INSERT INTO {rows.table.name} {rows.target} SELECT {rows.many(random)} FROM generate_series(1, {count}) AS i"
    )


def insert_select(rows: Rows, random: Random) -> str:
    """Insert rows of the table itself once more."""
    return (
        f"INSERT INTO {rows.table.name} {rows.target} SELECT {rows.copied(random)} FROM {rows.table.name} AS t"
        f" WHERE {rows.some(random, 40)} LIMIT 100"
    )


def update_counted(rows: Rows, random: Random) -> str:
    """Change columns that counters look at, of some rows."""
    share = random.choice((5, 50, 300))
    return f"UPDATE {rows.table.name} AS t SET {rows.changes(random, counted=True)} WHERE {rows.some(random, share)}"


def update_uncounted(rows: Rows, random: Random) -> str:
    """Change columns that no counter looks at."""
    return f"UPDATE {rows.table.name} AS t SET {rows.changes(random, counted=False)} WHERE {rows.some(random, 20)}"


def update_raced(rows: Rows, random: Random) -> str:
    """Change the same few rows that the others want."""
    some = rows.hot(random, random.randint(1, 2))
    return f"UPDATE {rows.table.name} AS t SET {rows.changes(random, counted=True)} WHERE {some}"


def update_all(rows: Rows, random: Random) -> str:
    """Change every row of the table."""
    return f"UPDATE {rows.table.name} AS t SET {rows.changes(random, counted=True)}"


def update_key(rows: Rows, random: Random) -> str | None:
    """Change the key of a row, which may cascade."""
    if not rows.numbers:
        return None
    column = random.choice(rows.numbers)
    number = rows.number(column, random, hot=False)
    return f"UPDATE {rows.table.name} AS t SET {quoted(column.name)} = {number} WHERE {rows.hot(random, 1)}"


def delete_some(rows: Rows, random: Random) -> str:
    """Delete some rows, which may cascade."""
    return f"DELETE FROM {rows.table.name} AS t WHERE {rows.some(random, random.choice((30, 300)))}"


def delete_raced(rows: Rows, random: Random) -> str:
    """Delete a row that the others want."""
    return f"DELETE FROM {rows.table.name} AS t WHERE {rows.hot(random, 1)}"


def insert_or_nothing(rows: Rows, random: Random) -> str:
    """Insert rows that may be there already."""
    listed = ", ".join(f"({rows.row(random)})" for _ in range(3))
    return f"INSERT INTO {rows.table.name} {rows.target} VALUES {listed} ON CONFLICT DO NOTHING"


def upsert(rows: Rows, random: Random) -> str | None:
    """Insert a row or, when it is there, change it."""
    if not rows.key or not rows.numbers:
        return None
    given = {column.name: rows.number(column, random, hot=True) for column in rows.numbers}
    keys = ", ".join(map(quoted, rows.key))
    # Assignments name the row that is there by the table's own name.
    changes = rows.changes(random, counted=True)
    return (
        f"INSERT INTO {rows.table.name} AS t {rows.target} VALUES ({rows.row(random, given)})"
        f" ON CONFLICT ({keys}) DO UPDATE SET {changes}"
    )


def merge(rows: Rows, random: Random) -> str | None:
    """Insert, update and delete in one statement.

    Mostly rows stay in their partition: those that a MERGE moves PostgreSQL does not show to statement triggers, so
    that counters are built again.
    """
    if len(rows.numbers) != 1 or rows.numbers[0].element not in {"int4", "int8"}:
        return None
    [column] = rows.numbers
    name, start = quoted(column.name), random.randint(1, 500)
    changes = rows.changes(random, counted=True, staying=random.random() < _STAYING)
    return (
        f"MERGE INTO {rows.table.name} AS t USING (SELECT i FROM generate_series({start}, {start + 30}) AS i) AS s"
        f" ON t.{name} = s.i WHEN MATCHED AND s.i % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET {changes}"
        f" WHEN NOT MATCHED THEN INSERT {rows.target} VALUES ({rows.row(random, {column.name: 's.i'})})"
    )


def several_at_once(rows: Rows, random: Random) -> str:
    """Change one table several times in one statement."""
    name = rows.table.name
    return (
        f"WITH gone AS (DELETE FROM {name} AS t WHERE {rows.some(random, 300)} RETURNING 1),"
        f" one AS (INSERT INTO {name} {rows.target} VALUES ({rows.row(random)})),"
        f" two AS (INSERT INTO {name} {rows.target} VALUES ({rows.row(random)}))"
        f" UPDATE {name} AS t SET {rows.changes(random, counted=True)} WHERE {rows.some(random, 300)}"
    )


def leaf_written(rows: Rows, random: Random) -> str | None:
    """Write to a partition by its own name."""
    if not rows.table.leaves:
        return None
    leaf = random.choice(rows.table.leaves)
    match random.randrange(3):
        case 0:
            return f"INSERT INTO {leaf} {rows.target} VALUES ({rows.row(random)})"
        case 1:
            return f"UPDATE {leaf} AS t SET {rows.changes(random, counted=True)} WHERE {rows.some(random, 40)}"
        case _:
            return f"DELETE FROM {leaf} AS t WHERE {rows.some(random, 40)}"


def truncate(rows: Rows, random: Random) -> str:
    """Empty the whole table, with all that refers to it, or one partition of it."""
    if rows.table.leaves and random.random() < 0.7:
        return f"TRUNCATE {random.choice(rows.table.leaves)}"
    return f"TRUNCATE {rows.table.name} CASCADE"


def alter(rows: Rows, random: Random) -> str:
    """Change the table in a way that counters must not mind."""
    name, index = rows.table.name, rows.own_name("index")
    return random.choice(
        (
            f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS soak_extra int DEFAULT 7",
            f"ALTER TABLE {name} DROP COLUMN IF EXISTS soak_extra",
            f"CREATE INDEX IF NOT EXISTS {index.partition('.')[2]} ON {name} ({quoted(rows.table.columns[0].name)})",
            f"DROP INDEX IF EXISTS {index}",
        )
    )


def partition(rows: Rows, random: Random) -> str | None:
    """Let a partition come, made so or attached, or go, dropped or detached; with its rows counted before it goes.

    Until somebody has given it triggers it is written through the table only, which is counted.
    """
    if (column := rows.listed_by) is None:
        return None
    table, name = rows.table.name, rows.own_name("part")
    fill = f"INSERT INTO {table} {rows.target} VALUES ({rows.row(random, {column: _OWN_LIST})})"
    empty = f"DELETE FROM {table} WHERE {quoted(column)} = {_OWN_LIST}"
    return random.choice(
        (
            f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} FOR VALUES IN ({_OWN_LIST}); {fill}",
            (
                f"DO $soak$ BEGIN IF to_regclass({literal(name, 'text')}) IS NULL THEN"
                f" CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);"
                f" ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES IN ({_OWN_LIST}); END IF; END $soak$; {fill}"
            ),
            f"{empty}; DROP TABLE IF EXISTS {name}",
            (
                f"DO $soak$ BEGIN IF to_regclass({literal(name, 'text')}) IS NOT NULL THEN {empty};"
                f" ALTER TABLE {table} DETACH PARTITION {name}; DROP TABLE {name}; END IF; END $soak$"
            ),
        )
    )


WEIGHTS: Final[Mapping[Choice, int]] = MappingProxyType(
    {
        insert_one: 12,
        insert_several: 6,
        insert_many: 3,
        insert_select: 3,
        insert_or_nothing: 4,
        update_counted: 14,
        update_uncounted: 5,
        update_raced: 14,
        update_key: 5,
        delete_some: 9,
        delete_raced: 6,
        upsert: 8,
        merge: 5,
        several_at_once: 5,
        leaf_written: 10,
    }
)
"""What transactions are made of, and how often."""

SMALL: Final[Sequence[Choice]] = (insert_one, insert_several, insert_or_nothing, several_at_once, leaf_written)
"""What may be left open for long: few rows are locked by it."""

RARE: Final[Sequence[Choice]] = (update_all, truncate, alter, partition)
"""What holds up everybody; each by itself, some times a minute."""


def choose(tables: Sequence[Rows], random: Random) -> Statement:
    """Return a statement on one of the tables."""
    while True:
        rows = random.choice(tables)
        if rows.fits_copy and random.random() < 0.05:
            listed = tuple(rows.text(random) for _ in range(random.randint(1, 40)))
            return Statement("copy", f"COPY {rows.table.name} {rows.target} FROM STDIN", listed)
        [choice] = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if (sql := choice(rows, random)) is not None:
            return Statement(choice.__name__, sql)


def choose_small(tables: Sequence[Rows], random: Random) -> Statement:
    """Return a statement that changes few rows."""
    while True:
        choice = random.choice(SMALL)
        if (sql := choice(random.choice(tables), random)) is not None:
            return Statement(choice.__name__, sql)


def choose_rare(tables: Sequence[Rows], random: Random) -> Statement:
    """Return one of the statements that are not for every day."""
    while True:
        choice = random.choice(RARE)
        if (sql := choice(random.choice(tables), random)) is not None:
            return Statement(choice.__name__, sql)
