"""Counting one row and grouping many give the same deltas for the same change, whatever the types and the settings."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.postgres.settings import pinned_settings
from tests.integration.capture.helpdesk import GROUPING, SCHEMA, install, notices, rewrite, truth
from tests.integration.capture.test_keys import ODD_KEYS

Connection = psycopg.Connection[Any]
Deltas = Counter[tuple[str, ...]]
Change = tuple[str, list[str | None]]

COLUMNS: Final = {
    "c_small": ("int2", ("-1", "0", "32767")),
    "c_int": ("int4", ("-1", "0", "7")),
    "c_big": ("int8", ("9223372036854775807", "-9223372036854775808", "0")),
    "c_oid": ("oid", ("0", "4294967295")),
    "c_number": ("numeric", ("1", "1.0", "1.50", "-0.0", "NaN", "Infinity", "1e-20", "1e20")),
    "c_price": ("numeric(9, 2)", ("0", "0.00", "12.34", "-0.01", "9999999.99")),
    "c_whole": ("numeric(9, 0)", ("0", "3", "-3")),
    "c_thousands": ("numeric(5, -3)", ("0", "4000", "-1500")),
    "c_flag": ("bool", ("true", "false")),
    "c_uuid": ("uuid", ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "00000000-0000-0000-0000-000000000000")),
    "c_text": ("text", ("", "a", "A", "x" * 64, "-", "null", "'\"\n\x01", "\u00e9", " padded ")),
    "c_varchar": ("varchar(6000)", ("", "b", "a\\N")),
    "c_char": ("char(3)", ("", "a", "a  ", "abc")),
    "c_name": ("name", ("", "a", "b")),
    "c_date": ("date", ("2024-02-29", "0044-03-15 BC", "infinity")),
    "c_timestamp": ("timestamp", ("2024-02-29 23:59:59.5", "-infinity")),
    "c_moment": ("timestamptz", ("2024-02-29 23:59:59.5+05:30", "1890-01-01 00:00:00+00", "infinity")),
    "c_bytes": ("bytea", ("", "\\x00ff", "\\x" + "ab" * 32)),
    "c_mood": ("mood", ("fine", "'\"\\")),
    "c_label": ("label", ("a", "x" * 60)),
    "c_real": ("float8", ("0.1", "1e300", "-0", "0.30000000000000004")),
    "c_doc": ("jsonb", ('{"k": "a"}', '{"k": null}', "7", json.dumps({"k": "long", "pad": list(range(3000))}))),
}

ODD: Final = {
    "c_text": (*ODD_KEYS, "x" * 65),
    "c_varchar": ODD_KEYS,
    "c_char": ("\\",),
    "c_name": ("\\N",),
    "c_number": ("1e-70", "1e70"),
    "c_bytes": ("\\x" + "ab" * 33, "\\x" + "ab" * 600),
    "c_label": ("\\N", "x" * 70),
    "c_price": ("NaN",),
}
"""Values that are left to grouping; seldom, for with one of them the whole row is."""

KEYS: Final = tuple(name for name in COLUMNS if name not in {"c_real", "c_doc"})
MEASURES: Final = ("c_small", "c_int", "c_big", "c_price", "c_whole", "c_thousands")

PLAIN: Final = (
    *(CounterDefinition(f"by_{name}", "t", by=(name,)) for name in KEYS),
    CounterDefinition("by_all", "t", scope=("c_text", "c_int"), by=KEYS),
    CounterDefinition(
        "by_expression", "t", where="c_flag", scope=("c_big % 3",), by=("c_doc ->> 'k'", "scale(c_price)")
    ),
    CounterDefinition("by_quotient", "t", where="c_int <> 0", by=("7 / c_int",)),
    *(CounterDefinition(f"sum_{name}", "t", scope=("c_flag",), sum_of=name) for name in MEASURES),
    CounterDefinition("sum_some", "t", where="c_text <> ''", by=("c_text",), sum_of="c_price"),
    CounterDefinition("total", "t"),
    CounterDefinition("flagged", "t", where="c_flag"),
)

CONVERTING: Final = (
    CounterDefinition("by_written", "t", by=("c_real::text", "c_bytes::text", "textin(byteaout(c_bytes))")),
    CounterDefinition("by_constant", "t", by=("c_date > '2024-02-01'", "c_moment > '2024-01-02 00:00+00'")),
    CounterDefinition(
        "by_null", "t", where="c_label IS NULL", by=("array_position('{x,NULL}'::text[], c_label::text)",)
    ),
    CounterDefinition("by_backslash", "t", by=(r"c_text = '\'", r"c_text = E'\\N'")),
)

SETTINGS: Final = {
    "TimeZone": ("'UTC'", "'Asia/Tokyo'", "'America/St_Johns'"),
    "DateStyle": ("'ISO'", "'German'", "'SQL, DMY'", "'Postgres'"),
    "IntervalStyle": ("postgres", "postgres_verbose", "sql_standard"),
    "extra_float_digits": ("-15", "0", "3"),
    "bytea_output": ("hex", "escape"),
    "standard_conforming_strings": ("on", "off"),
    "array_nulls": ("on", "off"),
    "quote_all_identifiers": ("on", "off"),
    "transform_null_equals": ("on", "off"),
    "search_path": ("public", "''"),
}

ROUNDS: Final = 150

FOUND: Final = "IF cdc_row = '' THEN"
"""What comes behind the query for one row."""


def force_grouping(connection: Connection, table: str) -> None:
    """Let a table's capture functions take no statement for one of one row."""
    rewrite(connection, f"_{table}_", (FOUND, f"cdc_row := NULL; {FOUND}"))
    rewrite(connection, f"_update_{table}_", ("IF cdc_same THEN", "IF false THEN"))


def take_deltas(connection: Connection, prefix: str) -> Deltas:
    """Empty the outbox; return each key's deltas added up, and how often a counter could not be computed."""
    names = dict(connection.execute(f"SELECT id, name FROM {SCHEMA}.counters".encode()).fetchall())
    totals: Deltas = Counter()
    for (deltas,) in connection.execute(f"DELETE FROM {SCHEMA}.outbox RETURNING deltas".encode()).fetchall():
        for number, *key, last in json.loads(deltas):
            broken = len(key) == 1
            totals[names[number].removeprefix(prefix), *key] += 1 if broken else last
    return Counter({key: value for key, value in totals.items() if value})


async def install_alike(
    database: str, connection: Connection, tables: Sequence[str], key: str, counters: Sequence[CounterDefinition]
) -> None:
    """Make tables with a column of each type, and the same counters on each."""
    connection.execute("CREATE TYPE mood AS ENUM ('fine', '''\"\\'); CREATE DOMAIN label AS text")
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in COLUMNS.items())
    for table in tables:
        connection.execute(f"CREATE TABLE {table} ({key}, {columns})".encode())
    await install(
        database, [replace(each, name=f"{table}_{each.name}", table=table) for table in tables for each in counters]
    )


def assert_agreeing(
    connection: Connection,
    tables: Sequence[str],
    counters: Sequence[CounterDefinition],
    rng: random.Random,
    change: Callable[[random.Random], Change],
    rounds: int,
) -> None:
    """Change tables alike, at random and under random settings: deltas must be the same, and add up to the truth."""
    all_deltas: Deltas = Counter()
    for _ in range(rounds):
        setting = rng.choice(sorted(SETTINGS))
        connection.execute(f"SET {setting} = {rng.choice(SETTINGS[setting])}".encode())
        statement, values = change(rng)
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
        assert added_up == truth(connection, f"{tables[0]}_{name}"), name


def random_change(rng: random.Random) -> Change:
    """Return a statement that changes one row of `{}` at most, and its parameters."""
    some = rng.sample(sorted(COLUMNS), rng.choice([1, 1, 2, 5, len(COLUMNS)]))
    values = [None if rng.random() < 0.2 else rng.choice(COLUMNS[name][1]) for name in some]
    if rng.random() < 0.1:
        values = [rng.choice(ODD[name]) if name in ODD else value for name, value in zip(some, values, strict=True)]
    row = rng.randrange(3)
    assigned = ", ".join(f"{name} = %s" for name in some)
    match rng.choice(["upsert", "upsert", "update", "update", "delete"]):
        case "upsert":
            insert = f"INSERT INTO public.{{}} (id, {', '.join(some)}) VALUES ({row}, {', '.join('%s' for _ in some)})"
            return f"{insert} ON CONFLICT (id) DO UPDATE SET {assigned}", values + values
        case "update":
            return f"UPDATE public.{{}} SET {assigned} WHERE id = {row}", values
        case _:
            return f"DELETE FROM public.{{}} WHERE id = {row}", []


@pytest.mark.parametrize("counters", [PLAIN, CONVERTING], ids=["plain", "converting"])
async def test_one_row_leaves_the_deltas_that_grouping_leaves(
    database: str, counters: Sequence[CounterDefinition]
) -> None:
    tables = ("one", "many")
    with psycopg.connect(database, autocommit=True) as connection:
        await install_alike(database, connection, tables, "id int PRIMARY KEY", counters)
        force_grouping(connection, "many")
        rewrite(connection, "_one_", (GROUPING, f"RAISE NOTICE 'grouping'; {GROUPING}"))
        grouped = notices(connection)
        assert_agreeing(connection, tables, counters, random.Random(20), random_change, ROUNDS)
        assert len(grouped) < ROUNDS / 2, "most rows are not grouped"
