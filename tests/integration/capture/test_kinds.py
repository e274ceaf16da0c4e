"""Grouping a large statement once for all counters leaves the deltas that grouping counter by counter leaves."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.postgres.settings import pinned_settings
from tests.integration.capture.helpdesk import assert_exact, install, truth
from tests.integration.capture.test_one_row_agrees import (
    COLUMNS,
    CONVERTING,
    ODD,
    PLAIN,
    SETTINGS,
    Deltas,
    force_grouping,
    take_deltas,
)

Connection = psycopg.Connection[Any]

ROUNDS: Final = 40

RETREAT: Final = "cdc_entries := NULL;"

LARGE: Final = 20_001
"""The fewest rows that are looked at for their kinds."""


def force_kinds(connection: Connection, table: str, instead: str = "") -> None:
    """Let a table's capture functions group every statement by kind, however few rows it has.

    Where that fails, they do `instead` before they go on counter by counter.
    """
    pattern = f"^capture_(insert|update|delete)_{table}_"
    for (source,) in connection.execute(
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname ~ %s", [pattern]
    ).fetchall():
        assert "OFFSET 20000" in source
        assert RETREAT in source
        connection.execute(source.replace("OFFSET 20000", "OFFSET 0").replace(RETREAT, instead + RETREAT))


def random_value(rng: random.Random, column: str) -> str | None:
    if rng.random() < 0.2:
        return None
    return rng.choice(ODD[column] if column in ODD and rng.random() < 0.03 else COLUMNS[column][1])


def random_change(rng: random.Random) -> tuple[str, list[str | None]]:
    """Return a statement that changes several rows of `{}`, and its parameters."""
    some = rng.sample(sorted(COLUMNS), rng.choice([1, 2, 5, len(COLUMNS)]))
    match rng.choice(["insert", "insert", "update", "update", "delete"]):
        case "insert":
            rows = [[random_value(rng, name) for name in some] for _ in range(rng.randint(2, 9))]
            values = ", ".join(f"({', '.join('%s' for _ in some)})" for _ in rows)
            return f"INSERT INTO public.{{}} ({', '.join(some)}) VALUES {values}", [
                value for row in rows for value in row
            ]
        case "update":
            assigned = ", ".join(f"{name} = %s" for name in some)
            parameters = [random_value(rng, name) for name in some]
            return f"UPDATE public.{{}} SET {assigned} WHERE id %% 3 < {rng.randint(1, 3)}", parameters
        case _:
            return f"DELETE FROM public.{{}} WHERE id % 4 < {rng.randint(1, 3)}", []


@pytest.mark.parametrize("counters", [PLAIN, CONVERTING], ids=["plain", "converting"])
async def test_kinds_leave_the_deltas_that_grouping_by_counter_leaves(
    database: str, counters: Sequence[CounterDefinition]
) -> None:
    rng = random.Random(21)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('fine', '''\"\\'); CREATE DOMAIN label AS text")
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in COLUMNS.items())
        tables = ("kinds", "each")
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (id serial, {columns})".encode())
        await install(
            database, [replace(each, name=f"{table}_{each.name}", table=table) for table in tables for each in counters]
        )
        for table in tables:
            force_grouping(connection, table)
        force_kinds(connection, "kinds")
        all_deltas: Deltas = Counter()
        for _ in range(ROUNDS):
            setting = rng.choice(sorted(SETTINGS))
            connection.execute(f"SET {setting} = {rng.choice(SETTINGS[setting])}".encode())
            statement, values = random_change(rng)
            found = []
            for table in tables:
                connection.execute(statement.format(table).encode(), values or None)
                found.append(take_deltas(connection, f"{table}_"))
            assert found[0] == found[1], (statement, values)
            all_deltas.update(found[0])
        for name, value in pinned_settings().items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        broken = {name for name, *key in all_deltas if len(key) == 1}
        assert broken <= {"sum_c_price", "sum_some"}
        for name in {each.name for each in counters} - broken:
            added_up = {key[1:]: value for key, value in all_deltas.items() if key[0] == name and value}
            assert added_up == truth(connection, f"kinds_{name}"), name


@pytest.mark.parametrize("kinds", [12, LARGE], ids=["alike", "each of its own"])
async def test_large_statements_are_counted_exactly_whatever_their_kinds(database: str, kinds: int) -> None:
    counters = [
        CounterDefinition("open", "t", where="status = 'open'", by=("part",)),
        CounterDefinition("pairs", "t", scope=("part % 2",), by=("status",)),
        CounterDefinition("quotients", "t", where="part <> 0", by=("100 / part",), sum_of="part"),
        CounterDefinition("total", "t"),
    ]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int, part int, status text)")
        await install(database, counters)
        connection.execute(
            f"INSERT INTO t SELECT i, i % {kinds}, CASE i % 3 WHEN 0 THEN 'closed' ELSE 'open' END"
            f" FROM generate_series(1, {LARGE}) AS i"
        )
        assert assert_exact(connection, counters)["total"] == {("-", "-"): LARGE}
        connection.execute("UPDATE t SET part = part + 1, status = 'open' WHERE id > 0")
        assert_exact(connection, counters)
        connection.execute("DELETE FROM t")
        assert not any(assert_exact(connection, counters).values())


async def test_expressions_are_evaluated_for_no_row_that_does_not_count(database: str) -> None:
    counters = [
        CounterDefinition("quotients", "t", where="part <> 0", by=("100 / part",), sum_of="7 / part"),
        CounterDefinition("total", "t"),
    ]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (part int)")
        await install(database, counters)
        force_grouping(connection, "t")
        force_kinds(connection, "t", instead="RAISE;")
        connection.execute("INSERT INTO t VALUES (0), (5), (5), (2)")
        connection.execute("UPDATE t SET part = 2 - part")
        assert assert_exact(connection, counters) == {
            "quotients": {("-", "50"): 3, ("-", "-33"): -4},
            "total": {("-", "-"): 4},
        }
        connection.execute("DELETE FROM t")
        assert not any(assert_exact(connection, counters).values())


async def test_large_keys_of_rows_that_do_not_count_make_no_kinds(database: str) -> None:
    counters = [
        CounterDefinition("notes", "t", where="status = 'tag'", by=("note",)),
        CounterDefinition("states", "t", by=("status",)),
    ]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (status text, note text)")
        await install(database, counters)
        ((source,),) = connection.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'capture_insert_%'"
        ).fetchall()
        by_kind = "            WITH cdc_kinds"
        assert source.count(by_kind) == 1
        connection.execute(source.replace(by_kind, f"RAISE NOTICE 'by kind';\n{by_kind}"))
        told: list[str | None] = []
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
        connection.execute(f"INSERT INTO t SELECT 'open', 'note ' || i FROM generate_series(1, {LARGE}) AS i")
        assert told == ["by kind"]
        assert_exact(connection, counters)
