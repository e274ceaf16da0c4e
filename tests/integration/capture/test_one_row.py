"""A statement that changes one row is counted without grouping: the same numbers, and nothing else is started."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from tests.integration.capture.helpdesk import GROUPING, assert_exact, captured, entries, install, rewrite
from tests.integration.capture.test_keys import ODD_KEYS

Connection = psycopg.Connection[Any]

COUNTERS = (
    CounterDefinition("open", "t", where="status = 'open'", scope=("account",), by=("channel",)),
    CounterDefinition("status", "t", by=("status",)),
    CounterDefinition("pairs", "t", scope=("channel",), by=("status", "account", "price")),
    CounterDefinition("price", "t", scope=("account",), sum_of="price"),
    CounterDefinition("count", "t", where="channel > 0", sum_of="channel"),
    CounterDefinition("total", "t"),
)

TABLE = "CREATE TABLE t (id int PRIMARY KEY, account bigint, channel int, status text, price numeric(12, 2), note text)"

CHANGES = (
    "INSERT INTO t VALUES (1, 1, 7, 'open', 10.50)",
    "UPDATE t SET note = 'x'",
    "UPDATE t SET status = 'closed'",
    "UPDATE t SET status = 'open', channel = 8, price = 0",
    "UPDATE t SET price = -3.25, account = NULL",
    "UPDATE t SET channel = NULL, status = NULL",
    "UPDATE t SET channel = -9, price = NULL",
    "UPDATE t SET id = 2, account = 9223372036854775807, status = ''",
    "UPDATE t SET price = 0.01, account = -5",
    "DELETE FROM t",
    "INSERT INTO t VALUES (2)",
    "DELETE FROM t WHERE id = 2",
)


def refuse_grouping(connection: Connection) -> None:
    """Make the statement fail where a capture function would group."""
    rewrite(connection, "", (GROUPING, f"RAISE EXCEPTION 'grouping'; {GROUPING}"))


def peak_memory(pid: int) -> int:
    """Return the most MiB that a process has ever had."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(peak) // 1024


async def test_one_row_is_counted_exactly_and_without_grouping(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
        await install(database, COUNTERS)
        refuse_grouping(connection)
        for change in CHANGES:
            connection.execute(change)
            assert_exact(connection, COUNTERS)
        connection.execute("UPDATE t SET status = 'none'")
        with pytest.raises(psycopg.errors.RaiseException, match="grouping"):
            connection.execute("INSERT INTO t VALUES (3), (4)")


async def test_row_that_changes_nothing_counted_leaves_nothing(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
        await install(database, [COUNTERS[0], COUNTERS[3]])
        refuse_grouping(connection)
        connection.execute("INSERT INTO t VALUES (1, 1, 7, 'closed', NULL)")
        connection.execute("UPDATE t SET status = 'new', channel = 8, price = 0.00")
        connection.execute("DELETE FROM t")
        assert entries(connection) == []


async def test_one_row_with_an_odd_key_is_counted_as_the_truth_has_it(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (k text, n numeric, b bytea, c char(3), v boolean, w timestamptz)")
        counters = [
            CounterDefinition("one", "t", by=("k",)),
            CounterDefinition("two", "t", scope=("k",), by=("k", "n", "b", "c", "v", "w")),
            *(CounterDefinition(f"by_{name}", "t", by=(name,)) for name in "nbcvw"),
        ]
        await install(database, counters)
        for key in [*ODD_KEYS, None]:
            connection.execute(
                "INSERT INTO t VALUES (%s, 1.00, '\\x00ff', '\\', true, 'infinity')",
                [key],
            )
        for change in (
            "n = 'NaN', v = NULL",
            "n = 1e-200, b = sha512(convert_to(k, 'UTF8'))",
            "w = '2024-02-29 23:59:59.5+05:30', c = 'a'",
        ):
            for key in ODD_KEYS:
                connection.execute(f"UPDATE t SET {change} WHERE k = %s", [key])
        assert len(assert_exact(connection, counters)["one"]) == len(ODD_KEYS) + 1
        for key in ODD_KEYS:
            connection.execute("DELETE FROM t WHERE k = %s", [key])
        assert_exact(connection, counters)


async def test_one_row_that_fails_to_be_computed_is_told_as_any_other(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int, b int, m numeric(9, 2))")
        fine = CounterDefinition("fine", "t", where="b <> 0", by=("a / b",))
        await install(
            database, [CounterDefinition("ratio", "t", by=("a / b",)), CounterDefinition("sum", "t", sum_of="m"), fine]
        )
        connection.execute("INSERT INTO t VALUES (4, 0, 1)")
        connection.execute("UPDATE t SET b = 2")
        connection.execute("UPDATE t SET m = 'NaN'")
        assert captured(connection, "fine") == {("-", "2"): 1}
        assert [entry[1] for entry in entries(connection) if len(entry) == 3] == ["22012", "22012", "0A000"]


async def test_row_that_a_merge_moves_to_another_partition_is_not_overlooked(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE t (k int, note text) PARTITION BY LIST (k);"
            "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)"
        )
        counter = CounterDefinition("by_k", "t", by=("k",))
        await install(database, [counter])
        refuse_grouping(connection)
        connection.execute("INSERT INTO t VALUES (1, 'a')")
        connection.execute("UPDATE t SET note = 'b'")
        assert assert_exact(connection, [counter])["by_k"] == {("-", "1"): 1}
        with pytest.raises(psycopg.errors.RaiseException, match="grouping"):
            connection.execute(
                "MERGE INTO t USING (VALUES (1)) AS n (k) ON t.k = n.k WHEN MATCHED THEN UPDATE SET k = 2"
            )


async def test_many_counters_of_one_table_are_still_counted_without_grouping(database: str) -> None:
    """PostgreSQL passes at most 100 arguments to a function; one counter more is enough to see."""
    counters = [CounterDefinition(f"c{i}", "t", where=f"a % {i} = 0", by=("b",)) for i in range(1, 102)]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int, b int)")
        await install(database, counters)
        refuse_grouping(connection)
        connection.execute("INSERT INTO t VALUES (180, 1)")
        connection.execute("UPDATE t SET a = 360, b = 2")
        assert assert_exact(connection, counters)["c72"] == {("-", "2"): 1}


async def test_functions_pin_what_converts_text_only_where_they_convert(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE plain (a int, s text, at timestamptz) PARTITION BY LIST (a); CREATE TABLE own (a int);"
            "CREATE TABLE floating (f float8); CREATE TABLE nulls (s text);"
            "CREATE TABLE written (b bytea); CREATE TABLE paths (doc jsonb, p jsonpath, k int);"
            " CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'"
        )
        await install(
            database,
            [
                CounterDefinition("plain", "plain", where="s IN ('a', 'b')", scope=("a % 2",), by=("lower(s)", "at")),
                CounterDefinition("own", "own", by=("f(a)",)),
                CounterDefinition("floating", "floating", by=("f::text",)),
                CounterDefinition("nulls", "nulls", by=("array_position('{a,NULL}'::text[], s)",)),
                CounterDefinition("written", "written", by=("textin(byteaout(b))",)),
                CounterDefinition(
                    "paths", "paths", by=("jsonb_extract_path_text(jsonb_path_query_array(doc, p), k::text)",)
                ),
            ],
        )
        settings = {
            "_".join(name.split("_")[1:3]): {setting.partition("=")[0] for setting in config}
            for name, config in connection.execute(
                "SELECT proname, proconfig FROM pg_proc WHERE proname ~ '^capture_(insert|update)'"
            ).fetchall()
        }
        few = {"search_path", "standard_conforming_strings", "jit", "exit_on_error"}
        # The function of a partitioned table's UPDATE compares rows by their text.
        assert {name for name, pinned in settings.items() if pinned == few} == {"insert_plain"}
        assert all(few < pinned for name, pinned in settings.items() if name != "insert_plain")


async def test_column_that_is_gone_is_never_another_counters_column(database: str) -> None:
    """What one counter computes has a name, too; an expression of another one must not find it."""
    columns = ["s1", "s1_3", "b1_5", "w_7"]
    counters = [
        counter
        for i, column in enumerate(columns)
        for counter in (
            CounterDefinition(f"first_{i}", f"t{i}", where="k > 0", scope=("k",), by=("k + 1",)),
            CounterDefinition(f"gone_{i}", f"t{i}", by=(column,)),
        )
    ]
    with psycopg.connect(database, autocommit=True) as connection:
        for i, column in enumerate(columns):
            connection.execute(f"CREATE TABLE t{i} (k int, {column} {'boolean' if column == 'w_7' else 'int'})")
        await install(database, counters)
        for i, column in enumerate(columns):
            connection.execute(f"ALTER TABLE t{i} RENAME COLUMN {column} TO renamed")
            for change in (f"INSERT INTO t{i} VALUES (1)", f"UPDATE t{i} SET k = 5", f"DELETE FROM t{i}"):
                connection.execute(change)
        ids: dict[str, int] = dict(connection.execute("SELECT name, id FROM cdc_counter.counters").fetchall())
        found = entries(connection)
        for i in range(len(columns)):
            first, gone = ids[f"first_{i}"], ids[f"gone_{i}"]
            assert [entry[1] for entry in found if entry[0] == gone] == ["42703", "42703", "42703"]
            assert sorted(entry[1:] for entry in found if entry[0] == first) == [
                ["1", "2", -1], ["1", "2", 1], ["5", "6", -1], ["5", "6", 1]
            ]  # fmt: skip
        assert ids["first_3"] == 7, "the columns are called as the results of their tables' first counters"


async def test_column_that_is_gone_is_never_a_function_of_the_row(database18: str) -> None:
    """Where a row has no column `count`, PostgreSQL takes `row.count` for `count(row)`.

    Until 15 it puts the row's name before each column itself where it writes an expression down.
    """
    with psycopg.connect(database18, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int, num_nulls int)")
        await install(database18, [CounterDefinition("odd", "t", by=("num_nulls",))])
        connection.execute("INSERT INTO t VALUES (1, 5), (2, 7)")
        connection.execute("ALTER TABLE t RENAME num_nulls TO renamed")
        before = len(entries(connection))
        connection.execute("UPDATE t SET renamed = 6 WHERE id = 1")
        assert [entry[1] for entry in entries(connection)[before:]] == ["42703"]


async def test_key_of_another_type_than_it_was_is_still_json(database: str) -> None:
    counters = [CounterDefinition("by_k", "t", by=("k",)), CounterDefinition("total", "t")]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (k int)")
        await install(database, counters)
        connection.execute("DROP VIEW cdc_counter.by_k; ALTER TABLE t ALTER k TYPE text")
        forged = 'x",1],[2,"-","-",1000],[1,"-","y'
        connection.execute("INSERT INTO t VALUES (%s)", [forged])
        assert captured(connection, "by_k") == {("-", forged): 1}
        assert captured(connection, "total") == {("-", "-"): 1}


async def test_column_that_is_gone_is_never_a_transition_table(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int, new_rows int)")
        await install(database, [CounterDefinition("odd", "t", by=("new_rows",))])
        connection.execute("INSERT INTO t VALUES (1, 5)")
        connection.execute("ALTER TABLE t RENAME new_rows TO renamed")
        before = len(entries(connection))
        connection.execute("UPDATE t SET renamed = 6")
        assert [entry[1] for entry in entries(connection)[before:]] == ["42703"]


async def test_row_that_a_trigger_swallows_on_its_way_is_counted_where_no_column_is_read(database: str) -> None:
    """Two rows are updated; one stays, the other one moves to a partition whose trigger refuses it."""
    total = CounterDefinition("total", "t")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE t (k int, note text) PARTITION BY LIST (k);"
            "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);"
            "CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF NEW.note = ''go'' THEN NEW.k = 2; END IF; RETURN NEW; END';"
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            # Its name sorts behind the guard's, which is not shown the new key.
            "CREATE TRIGGER zzz BEFORE UPDATE ON t1 FOR EACH ROW EXECUTE FUNCTION move();"
            "CREATE TRIGGER refuse BEFORE INSERT ON t2 FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        await install(database, [total])
        connection.execute("INSERT INTO t VALUES (1, 'x'), (1, 'y')")
        connection.execute("UPDATE t SET note = CASE WHEN note = 'x' THEN 'go' ELSE 'stay' END")
        assert assert_exact(connection, [total])["total"] == {("-", "-"): 1}


async def test_large_key_of_a_row_that_does_not_count_is_not_computed(database: str) -> None:
    megabytes = 20
    counters = [
        CounterDefinition("tags", "t", where="kind = 'tag'", by=("body",)),
        CounterDefinition("kinds", "t", by=("kind",)),
    ]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (kind text, body text)")
        await install(database, counters)
        ((pid,),) = connection.execute("SELECT pg_backend_pid()").fetchall()
        # In JSON each of these characters takes six.
        connection.execute("INSERT INTO t SELECT 'other', repeat(E'\\x01', %s)", [megabytes * 1_000_000])
        connection.execute("UPDATE t SET kind = 'another'")
        connection.execute("DELETE FROM t")
        assert peak_memory(pid) < 10 * megabytes
        assert_exact(connection, counters)


@pytest.mark.parametrize("side", ["new", "old"])
async def test_row_without_a_partner_is_left_to_grouping(database: str, side: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
        await install(database, COUNTERS)
        connection.execute("INSERT INTO t VALUES (1, 1, 7, 'open', 10.50)")
        ((source,),) = connection.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'capture_update%'"
        ).fetchall()
        one_row, found, grouping = source.partition("IF NOT EXISTS")
        none = f"FROM (SELECT * FROM {side}_rows WHERE false) AS"
        one_row, places = re.subn(rf"FROM {side}_rows(?: AS)?( \w+)", none + r"\1", one_row)
        assert places == 2
        connection.execute(one_row + found + grouping)
        connection.execute("UPDATE t SET status = 'closed'")
        assert_exact(connection, COUNTERS)


async def test_assertion_that_fails_where_one_row_is_counted_breaks_no_write(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
        await install(database, COUNTERS)
        ((source,),) = connection.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'capture_insert%'"
        ).fetchall()
        # First only there, then also where rows are grouped, which is tried once more for each counter.
        for blocks in (1, 2):
            connection.execute(source.replace("    BEGIN\n", "    BEGIN ASSERT false;\n", blocks))
            connection.execute("INSERT INTO t VALUES (%s, 1, 7, 'open', 10.50)", [blocks])
            assert_exact(connection, COUNTERS)


async def test_row_that_does_not_count_may_have_keys_that_fail(database: str) -> None:
    counter = CounterDefinition("ratio", "t", where="b <> 0", by=("a / b",))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int, b int)")
        await install(database, [counter])
        refuse_grouping(connection)
        for change in ("INSERT INTO t VALUES (4, 0)", "UPDATE t SET a = 6", "UPDATE t SET b = 2", "UPDATE t SET b = 0"):
            connection.execute(change)
        assert_exact(connection, [counter])
        assert [entry[2:] for entry in entries(connection)] == [["3", 1], ["3", -1]]
