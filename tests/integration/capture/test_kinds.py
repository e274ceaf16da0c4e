"""Grouping a large statement once for all counters leaves the deltas that grouping counter by counter leaves."""

import random
from collections.abc import Sequence
from typing import Any, Final

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from tests.integration.capture.helpdesk import assert_exact, install, notices, rewrite
from tests.integration.capture.test_one_row_agrees import (
    COLUMNS,
    CONVERTING,
    ODD,
    PLAIN,
    Change,
    assert_agreeing,
    force_grouping,
    install_alike,
)

Connection = psycopg.Connection[Any]

ROUNDS: Final = 40

RETREAT: Final = "cdc_entries := NULL;"

BY_KIND: Final = "WITH cdc_kinds"

LARGE: Final = 20_001
"""The fewest rows that are looked at for their kinds."""


def force_kinds(connection: Connection, table: str, instead: str = "") -> None:
    """Let a table's capture functions group every statement by kind, however few rows it has.

    Where that fails, they do `instead` before they go on counter by counter.
    """
    rewrite(connection, f"_{table}_", ("OFFSET 20000", "OFFSET 0"), (RETREAT, instead + RETREAT))


def random_value(rng: random.Random, column: str) -> str | None:
    if rng.random() < 0.2:
        return None
    return rng.choice(ODD[column] if column in ODD and rng.random() < 0.03 else COLUMNS[column][1])


def random_change(rng: random.Random) -> Change:
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
    tables = ("kinds", "each")
    with psycopg.connect(database, autocommit=True) as connection:
        await install_alike(database, connection, tables, "id serial", counters)
        for table in tables:
            force_grouping(connection, table)
        force_kinds(connection, "kinds")
        assert_agreeing(connection, tables, counters, random.Random(21), random_change, ROUNDS)


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
        rewrite(connection, "_insert_", (BY_KIND, f"RAISE NOTICE 'by kind'; {BY_KIND}"))
        told = notices(connection)
        connection.execute(f"INSERT INTO t SELECT 'open', 'note ' || i FROM generate_series(1, {LARGE}) AS i")
        assert told == ["by kind"]
        assert_exact(connection, counters)
