"""Sums are exact integers, never overflow the application's statement, and survive what is not a number."""

import psycopg

from cdc_counter.core.definition import CounterDefinition
from tests.integration.capture.helpdesk import assert_exact, entries, install


async def test_sums_at_the_edges_of_integers_are_exact(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id serial, a smallint, b int, c bigint)")
        counters = [CounterDefinition(f"sum_{name}", "t", sum_of=name) for name in "abc"]
        await install(database, counters)
        low = "(-32768, -2147483648, -9223372036854775808)"
        connection.execute(f"INSERT INTO t (a, b, c) VALUES {low}, {low}, {low}")
        assert assert_exact(connection, counters)["sum_c"] == {("-", "-"): -27670116110564327424}
        connection.execute("UPDATE t SET a = 32767, b = 2147483647, c = 9223372036854775807 WHERE id < 3")
        connection.execute("UPDATE t SET a = NULL, b = NULL, c = NULL WHERE id = 3")
        assert assert_exact(connection, counters)["sum_c"] == {("-", "-"): 18446744073709551614}
        connection.execute("TRUNCATE t")
        assert assert_exact(connection, counters)["sum_c"] == {}


async def test_numeric_sums_are_scaled_integers(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE DOMAIN money_ AS numeric(12, 2); CREATE TABLE t (id serial, m money_, q int, n numeric(5, -2))"
        )
        counters = [
            CounterDefinition("plain", "t", sum_of="m"),
            CounterDefinition("product", "t", sum_of="(m * q)::numeric(20, 4)"),
            CounterDefinition("rounded", "t", sum_of="n"),
        ]
        await install(database, counters)
        connection.execute(
            "INSERT INTO t (m, q, n) VALUES (0.1, 3, 12345), (0.2, 3, 50), (-0.3, 3, NULL), (NULL, 1, 0)"
        )
        truths = assert_exact(connection, counters)
        assert truths == {"plain": {}, "product": {}, "rounded": {("-", "-"): 12400}}
        connection.execute("UPDATE t SET m = 9999999999.99 WHERE id = 1")
        truths = assert_exact(connection, counters)
        assert truths["plain"] == {("-", "-"): 999999999989}
        assert truths["product"] == {("-", "-"): 299999999996700}


async def test_measure_that_is_not_a_number_breaks_only_its_own_counter(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (m numeric(12, 2))")
        total = CounterDefinition("total", "t")
        await install(database, [CounterDefinition("plain", "t", sum_of="m"), total])
        connection.execute("INSERT INTO t VALUES (1), ('NaN')")
        assert_exact(connection, [total])
        assert [entry[1:] for entry in entries(connection) if len(entry) == 3] == [
            ["0A000", "cannot convert NaN to bigint"]
        ]


async def test_expression_that_fails_breaks_only_its_own_counter_and_the_write_passes(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int, b int)")
        total = CounterDefinition("total", "t")
        await install(database, [CounterDefinition("ratio", "t", by=("a / b",)), total])
        connection.execute("INSERT INTO t VALUES (4, 2)")
        connection.execute("INSERT INTO t VALUES (1, 0), (1, 1)")
        connection.execute("UPDATE t SET b = 0")
        connection.execute("DELETE FROM t WHERE a = 4")
        connection.execute("TRUNCATE t")
        assert assert_exact(connection, [total]) == {"total": {}}
        assert [entry[1] for entry in entries(connection) if len(entry) == 3] == ["22012"] * 4


async def test_column_renamed_under_the_trigger_does_not_break_writes(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int, b int)")
        total = CounterDefinition("total", "t")
        await install(database, [CounterDefinition("by_a", "t", by=("a",)), total])
        connection.execute("INSERT INTO t VALUES (1, 1)")
        connection.execute("ALTER TABLE t RENAME COLUMN a TO renamed")
        connection.execute("INSERT INTO t VALUES (2, 2)")
        connection.execute("UPDATE t SET b = 3")
        connection.execute("DELETE FROM t WHERE b = 3")
        assert assert_exact(connection, [total]) == {"total": {}}
        assert {entry[1] for entry in entries(connection) if len(entry) == 3} == {"42703"}
