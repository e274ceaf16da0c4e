"""MERGE into a partitioned table, of which PostgreSQL shows statement triggers the wrong rows: exact, or marked."""

from typing import Any

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.postgres.coverage import coverage
from tests.integration.capture.helpdesk import SCHEMA, WRITER, as_writer, assert_exact, install, make_writer

BY = [
    CounterDefinition("events", "events", scope=("region",), by=("kind",)),
    CounterDefinition("weight", "events", sum_of="weight"),
]

TABLES = """
CREATE TABLE events (
    id int, region int, kind text, weight int, at timestamptz DEFAULT now(), span interval DEFAULT '1 day 2 h'
) PARTITION BY LIST (region);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE events_2_low PARTITION OF events_2 FOR VALUES FROM (0) TO (100);
CREATE TABLE events_2_high (dropped text, at timestamptz, span interval, weight int, kind text, region int, id int);
ALTER TABLE events_2_high DROP COLUMN dropped;
ALTER TABLE events_2 ATTACH PARTITION events_2_high FOR VALUES FROM (100) TO (200);
"""

MERGE = "MERGE INTO events AS t USING (SELECT i FROM generate_series(1, 8) AS i ORDER BY i DESC) AS s ON t.id = s.i "


@pytest.fixture
async def partitioned(database: str) -> str:
    """Give the dsn of a database with a partitioned table of two levels with six rows, counted."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLES)
        make_writer(connection)
    await install(database, BY)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO events SELECT i, i % 2 + 1, 'k' || i % 3, i FROM generate_series(1, 6) AS i")
    return database


def broken(connection: psycopg.Connection[Any]) -> set[str]:
    """Return the counters that were marked."""
    cursor = connection.execute(f"SELECT counter FROM {SCHEMA}.ledger WHERE broken LIKE '0A000: a MERGE%'".encode())
    return {name for (name,) in cursor.fetchall()}


def merge(connection: psycopg.Connection[Any], actions: str) -> None:
    # In the order of the source, so that rows are inserted before others are updated.
    connection.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")
    connection.execute((MERGE + actions).encode())


@pytest.mark.parametrize(
    "actions",
    [
        "WHEN MATCHED THEN UPDATE SET kind = 'new', weight = 10 WHEN NOT MATCHED THEN INSERT VALUES (s.i, 2, 'in', 7)",
        (
            "WHEN MATCHED AND t.id > 3 THEN DELETE WHEN MATCHED THEN UPDATE SET weight = weight + 1"
            " WHEN NOT MATCHED THEN INSERT VALUES (s.i, 1, 'in', 9)"
        ),
        "WHEN MATCHED THEN UPDATE SET region = region, weight = 5",
        "WHEN MATCHED THEN DELETE",
    ],
)
def test_merge_that_leaves_rows_in_their_partitions_is_counted(partitioned: str, actions: str) -> None:
    with psycopg.connect(partitioned, autocommit=True) as connection:
        as_writer(connection)
        merge(connection, actions)
        connection.execute("RESET SESSION AUTHORIZATION")
        assert_exact(connection, BY)
        assert broken(connection) == set()


@pytest.mark.parametrize(
    "actions",
    [
        "WHEN MATCHED THEN UPDATE SET region = 2, weight = weight + 1",
        "WHEN MATCHED THEN UPDATE SET region = 1 WHEN NOT MATCHED THEN INSERT VALUES (s.i, 2, 'in', 7)",
        "WHEN MATCHED AND t.id = 2 THEN DELETE WHEN MATCHED THEN UPDATE SET region = 2",
        "WHEN MATCHED AND t.region = 2 THEN UPDATE SET id = t.id + 100",
        # The first row whose key changes stays where it is.
        "WHEN MATCHED AND t.region = 2 THEN UPDATE SET id = CASE t.id WHEN 3 THEN 103 ELSE t.id + 10 END",
    ],
)
def test_merge_that_moves_rows_marks_the_counters_of_the_table(partitioned: str, actions: str) -> None:
    with psycopg.connect(partitioned, autocommit=True) as connection:
        as_writer(connection)
        merge(connection, actions)
        connection.execute("RESET SESSION AUTHORIZATION")
        assert broken(connection) == {"events", "weight"}


def test_update_that_moves_rows_is_counted_and_marks_nothing(partitioned: str) -> None:
    """Also when others follow in the same transaction, and some are undone; whatever the session's settings."""
    with psycopg.connect(partitioned) as connection:
        as_writer(connection)
        connection.execute(
            "SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'postgres_verbose'; SET DateStyle = 'German'"
        )
        connection.execute("UPDATE events_2 SET id = id + 1 WHERE id < 90")
        connection.execute("DELETE FROM events WHERE id = 1")
        connection.execute("UPDATE events SET region = 3 - region, weight = weight + 1")
        connection.execute("SAVEPOINT here")
        connection.execute("UPDATE events SET region = 3 - region WHERE id < 3")
        connection.execute("ROLLBACK TO SAVEPOINT here")
        connection.execute("UPDATE events_2 SET id = id + 100 WHERE id % 2 = 0")
        connection.execute("UPDATE events SET weight = 0 WHERE region = 1")
        connection.commit()
        connection.execute("RESET SESSION AUTHORIZATION")
        assert_exact(connection, BY)
        assert broken(connection) == set()


def test_partition_attached_later_is_guarded_too(partitioned: str) -> None:
    with psycopg.connect(partitioned, autocommit=True) as connection:
        connection.execute("CREATE TABLE events_3 (LIKE events)")
        connection.execute("ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES IN (3)")
        connection.execute(f"GRANT ALL ON events_3 TO {WRITER}".encode())
        connection.execute("INSERT INTO events VALUES (50, 3, 'k', 1)")
        connection.execute(
            b"MERGE INTO events AS t USING (SELECT 50 AS i) AS s ON t.id = s.i WHEN MATCHED THEN UPDATE SET region = 1"
        )
        assert broken(connection) == {"events", "weight"}


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER zz_cdc_counter_row_new ON events",
        "ALTER TABLE events_1 DISABLE TRIGGER zz_cdc_counter_row_moved",
        "ALTER TABLE events ENABLE TRIGGER zz_cdc_counter_row_key",
    ],
)
async def test_a_guard_that_is_gone_is_a_hole_until_installed_again(partitioned: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        assert await coverage(connection, SCHEMA) == []
        await connection.execute(statement.encode())
        holes = await coverage(connection, SCHEMA)
        assert {counter for hole in holes for counter in hole.counters} == {"events", "weight"}
        assert all("no guard for MERGE" in hole.reason for hole in holes)
        await install(partitioned, BY)
        assert await coverage(connection, SCHEMA) == []
