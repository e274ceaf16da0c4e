"""Partitioned tables: through the root, straight into a leaf, from one partition to another."""

from typing import Any

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.postgres.coverage import coverage
from tests.integration.capture.helpdesk import SCHEMA, assert_exact, install

COUNTER = CounterDefinition("events", "events", where="kind <> 'noise'", scope=("region",), by=("kind",))
BY = [COUNTER]

TABLES = """
CREATE TABLE events (id int, region int, kind text) PARTITION BY LIST (region);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE events_2_low PARTITION OF events_2 FOR VALUES FROM (0) TO (100);
CREATE TABLE events_2_high (dropped text, kind text, region int, id int);
ALTER TABLE events_2_high DROP COLUMN dropped;
ALTER TABLE events_2 ATTACH PARTITION events_2_high FOR VALUES FROM (100) TO (200);
"""


@pytest.fixture
async def partitioned(database: str) -> str:
    """Give the dsn of a database with a partitioned table of two levels, counted."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLES)
    await install(database, BY)
    return database


def filled(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO events VALUES (1, 1, 'a'), (2, 2, 'a'), (150, 2, 'b'), (3, 1, 'noise')")


def test_writes_through_any_relation_of_the_tree_are_counted_once(partitioned: str) -> None:
    with psycopg.connect(partitioned, autocommit=True) as connection:
        filled(connection)
        connection.execute("INSERT INTO events_1 VALUES (5, 1, 'a')")
        connection.execute("INSERT INTO events_2 VALUES (6, 2, 'a'), (160, 2, 'b')")
        connection.execute("INSERT INTO events_2_high (id, region, kind) VALUES (161, 2, 'b')")
        with connection.cursor().copy("COPY events FROM STDIN") as copy:
            copy.write_row((7, 1, "c"))
            copy.write_row((170, 2, "c"))
        assert assert_exact(connection, BY)["events"] == {
            ("1", "a"): 2, ("2", "a"): 2, ("2", "b"): 3, ("1", "c"): 1, ("2", "c"): 1,
        }  # fmt: skip
        connection.execute("UPDATE events_2_high SET kind = 'z' WHERE kind = 'b'")
        connection.execute("DELETE FROM events_2 WHERE kind = 'a'")
        connection.execute("DELETE FROM events WHERE kind = 'c'")
        assert assert_exact(connection, BY)["events"] == {("1", "a"): 2, ("2", "z"): 3}


def test_rows_that_move_between_partitions_are_counted(partitioned: str) -> None:
    with psycopg.connect(partitioned, autocommit=True) as connection:
        filled(connection)
        connection.execute("UPDATE events SET region = 2 WHERE region = 1")
        connection.execute("UPDATE events_2 SET id = id + 100 WHERE id < 100")
        assert assert_exact(connection, BY)["events"] == {("2", "a"): 2, ("2", "b"): 1}
        connection.execute("UPDATE events SET region = 1, kind = kind || '!'")
        assert assert_exact(connection, BY)["events"] == {("1", "a!"): 2, ("1", "b!"): 1, ("1", "noise!"): 1}


@pytest.mark.parametrize(
    ("truncated", "left"),
    [
        ("events", {}),
        ("events_1", {("2", "a"): 1, ("2", "b"): 1}),
        ("events_2", {("1", "a"): 1}),
        ("events_2_high", {("1", "a"): 1, ("2", "a"): 1}),
    ],
)
def test_truncate_of_a_part_of_the_tree_takes_away_its_rows_once(
    partitioned: str, truncated: str, left: dict[tuple[str, str], int]
) -> None:
    with psycopg.connect(partitioned, autocommit=True) as connection:
        filled(connection)
        connection.execute(f"TRUNCATE {truncated}")
        assert assert_exact(connection, BY)["events"] == left


async def test_partition_made_later_is_a_fault_until_installed_again(partitioned: str) -> None:
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        assert await coverage(connection, SCHEMA) == []
        await connection.execute("CREATE TABLE events_3 PARTITION OF events FOR VALUES IN (3)")
        faults = await coverage(connection, SCHEMA)
        assert [str(fault) for fault in faults] == [
            '"public"."events_3" has no trigger for INSERT, UPDATE, DELETE, TRUNCATE'
        ]
        assert await install(partitioned, BY)
        assert await coverage(connection, SCHEMA) == []
        await connection.execute("INSERT INTO events_3 VALUES (1, 3, 'a')")
    with psycopg.connect(partitioned, autocommit=True) as check:
        assert assert_exact(check, BY)["events"] == {("3", "a"): 1}


async def test_detached_partition_is_a_fault_and_is_released(partitioned: str) -> None:
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        await connection.execute("ALTER TABLE events DETACH PARTITION events_1")
        assert [str(fault) for fault in await coverage(connection, SCHEMA)] == [
            '"public"."events_1" is no longer part of "public"."events"'
        ]
        await install(partitioned, BY)
        assert await coverage(connection, SCHEMA) == []
        await connection.execute("INSERT INTO events_1 VALUES (1, 1, 'a')")
    with psycopg.connect(partitioned, autocommit=True) as check:
        assert assert_exact(check, BY)["events"] == {}


async def test_disabled_trigger_is_a_fault(partitioned: str) -> None:
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        await connection.execute("ALTER TABLE events_1 DISABLE TRIGGER zz_cdc_counter_update")
        await connection.execute("ALTER TABLE events_2_low DISABLE TRIGGER USER")
        await connection.execute("ALTER TABLE events_2_low ENABLE TRIGGER USER")
        faults = await coverage(connection, SCHEMA)
        low = '"public"."events_2_low"'
        assert [fault.relation for fault in faults] == ['"public"."events_1"', low, low]
        assert all("enabled always" in fault.reason for fault in faults)
        assert [fault.reason.count("zz_") for fault in faults] == [1, 4, 3]


async def test_partition_that_was_dropped_is_a_fault(partitioned: str) -> None:
    """Its rows are gone without any trigger, and so are the triggers that could tell."""
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        await connection.execute("DROP TABLE events_2_high")
        (fault,) = await coverage(connection, SCHEMA)
        assert str(fault) == '"public"."events_2_high" is no longer part of "public"."events"'
        assert fault.counters == ("events",)
        await install(partitioned, BY)
        assert await coverage(connection, SCHEMA) == []


async def test_partition_that_brings_triggers_of_ours_is_a_fault(partitioned: str) -> None:
    """A table that is counted by itself becomes a part of another one: neither is what it was."""
    other = CounterDefinition("others", "others")
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        await connection.execute("CREATE TABLE others (id int, region int, kind text)")
        await install(partitioned, [COUNTER, other])
        assert await coverage(connection, SCHEMA) == []
        await connection.execute("ALTER TABLE events ATTACH PARTITION others FOR VALUES IN (9)")
        faults = await coverage(connection, SCHEMA)
        assert {fault.counters for fault in faults} == {("events",), ("others",)}
        assert {fault.relation for fault in faults} == {'"public"."others"'}


async def test_function_that_was_replaced_is_a_fault_until_installed_again(partitioned: str) -> None:
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'cdc_counter'::regnamespace AND proname LIKE '%insert%'"
        )
        ((name,),) = await cursor.fetchall()
        await connection.execute(
            f"CREATE OR REPLACE FUNCTION cdc_counter.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " AS 'BEGIN RETURN NULL; END'"
        )
        (fault,) = await coverage(connection, SCHEMA)
        assert str(fault) == f'function "cdc_counter"."{name}" was replaced'
        await install(partitioned, BY)
        assert await coverage(connection, SCHEMA) == []
        await connection.execute("INSERT INTO events VALUES (1, 1, 'a')")
    with psycopg.connect(partitioned, autocommit=True) as check:
        assert assert_exact(check, BY)["events"] == {("1", "a"): 1}


async def test_truth_view_that_is_gone_is_a_fault_until_installed_again(partitioned: str) -> None:
    """It keeps columns from becoming something else: without it nobody knows what they were meanwhile."""
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        await connection.execute("DROP VIEW cdc_counter.events")
        (fault,) = await coverage(connection, SCHEMA)
        assert (fault.counters, str(fault)) == (("events",), 'view "cdc_counter"."events" is gone')
        await install(partitioned, BY)
        assert await coverage(connection, SCHEMA) == []
        ids = await (
            await connection.execute("SELECT id FROM cdc_counter.counters WHERE retired_at IS NULL")
        ).fetchall()
        assert ids == [(2,)]


async def test_table_that_was_renamed_is_no_fault_and_keeps_its_counter(partitioned: str) -> None:
    renamed = CounterDefinition("events", "happenings", COUNTER.where, COUNTER.scope, COUNTER.by)
    async with await psycopg.AsyncConnection.connect(partitioned, autocommit=True) as connection:
        await connection.execute("ALTER TABLE events RENAME TO happenings")
        assert await coverage(connection, SCHEMA) == []
        await connection.execute("INSERT INTO happenings VALUES (1, 1, 'a')")
        await install(partitioned, [renamed])
        assert await coverage(connection, SCHEMA) == []
