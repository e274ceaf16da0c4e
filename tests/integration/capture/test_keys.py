"""Key texts: any character, any type that is allowed, and the same text whatever the writer's session says."""

import hashlib
import json
from typing import Any

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from tests.integration.capture.helpdesk import (
    as_owner,
    as_writer,
    assert_exact,
    captured,
    install,
    make_writer,
    truth,
)

Connection = psycopg.Connection[Any]

ODD_KEYS = [
    "",
    "NULL",
    "\\N",
    "\\",
    "\\\\N",
    "a'b\"c",
    "a|b:c,d",
    "new\nline\ttab\x01\x1f\x7f",
    "{}[]%s%1$I$capture$",
    "emoji \U0001f600 and \u2028",
    "e\u0301",
    "\u00e9",
    " padded ",
    "-",
    "x" * 1024,
    "x" * 1025,
    "y" * 5000,
    # what the key above is shortened to: as a key of its own it must not meet it
    "y" * 200 + "~" + hashlib.sha256(b"y" * 5000).hexdigest(),
]


async def test_text_keys_with_any_character_stay_apart(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id serial, k text, other int)")
        one = CounterDefinition("one", "t", by=("k",))
        two = CounterDefinition("two", "t", scope=("k",), by=("k", "other"))
        await install(database, [one, two])
        keys = [*ODD_KEYS, None]
        for key in keys:
            connection.execute("INSERT INTO t (k, other) VALUES (%s, 1), (%s, NULL)", [key, key])
        truths = assert_exact(connection, [one, two])
        assert len(truths["one"]) == len(keys)
        assert len(truths["two"]) == 2 * len(keys)
        assert truths["one"]["-", "\\N"] == 2
        assert truths["one"]["-", "\\\\N"] == 2
        assert truths["one"]["-", "new\nline\ttab\x01\x1f\x7f"] == 2
        assert all(len(bucket.encode()) <= 1024 for _, bucket in truths["one"])
        short = {key: value for key, value in truths["two"].items() if len(key[0]) < 60}
        expected = {
            json.dumps([key, other], separators=(",", ":"), ensure_ascii=False)
            for key in keys
            for other in (1, None)
            if key is None or len(key) < 60
        }
        assert {bucket for _, bucket in short} == expected
        connection.execute("DELETE FROM t")
        assert assert_exact(connection, [one, two]) == {"one": {}, "two": {}}


TYPED = {
    "smallint": ("-5::smallint", "-5", "-5"),
    "bigint": ("9007199254740993", "9007199254740993", "9007199254740993"),
    "numeric": ("1.500", "1.5", "1.5"),
    "numeric(6,3)": ("2", "2", "2"),
    "boolean": ("true", "true", "true"),
    "uuid": ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", None),
    "char(5)": ("'ab'", "ab", None),
    "varchar(9)": ("'ab '", "ab ", None),
    "name": ("'n'", "n", None),
    "mood": ("'so so'", "so so", None),
    "quantity": ("7", "7", "7"),
    "date": ("'2024-02-29'", "2024-02-29", None),
    "timestamp": ("'2024-02-29 13:14:15.5'", "2024-02-29T13:14:15.5", None),
    "timestamptz": ("'2024-02-29 13:14:15+02'", "2024-02-29T11:14:15Z", None),
    "bytea": ("'\\xDEAD'", "dead", None),
    "oid": ("4294967295", "4294967295", "4294967295"),
}

HOSTILE = [
    "SET TimeZone = 'Asia/Kolkata'",
    "SET DateStyle = 'SQL, DMY'",
    "SET IntervalStyle = 'sql_standard'",
    "SET bytea_output = 'escape'",
    "SET extra_float_digits = -10",
    "SET standard_conforming_strings = off",
    "SET search_path = hostile, pg_temp, pg_catalog",
    "SET array_nulls = off",
    "SET transform_null_equals = on",
    "SET default_transaction_isolation = 'serializable'",
]


@pytest.mark.parametrize(("kind", "sample"), TYPED.items(), ids=TYPED.keys())
async def test_key_text_of_a_type_does_not_depend_on_the_writers_settings(
    database: str, kind: str, sample: tuple[str, str, str | None]
) -> None:
    literal, text, as_json = sample
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TYPE mood AS ENUM ('so so', 'fine'); CREATE DOMAIN quantity AS int CHECK (VALUE > 0);"
            f"CREATE TABLE t (k {kind}, n int); CREATE SCHEMA hostile"
        )
        make_writer(connection)
        one = CounterDefinition("one", "t", by=("k",))
        two = CounterDefinition("two", "t", by=("k", "n"))
        await install(database, [one, two])
        connection.execute(f"INSERT INTO t VALUES ({literal}, 1)")
        value = connection.execute("SELECT k FROM public.t").fetchone()
        assert value is not None
        for setting in HOSTILE:
            connection.execute(setting)
        as_writer(connection)
        connection.execute("INSERT INTO public.t SELECT k, n FROM public.t")
        assert_hidden(connection)
        as_owner(connection)
        part = as_json or json.dumps(text)
        assert assert_exact(connection, [one, two]) == {
            "one": {("-", text): 2},
            "two": {("-", f"[{part},1]"): 2},
        }


def assert_hidden(connection: Connection) -> None:
    """Check that a writer has no right on the outbox, the ledger or a truth view."""
    for relation in ("outbox", "outbox_0", "counters", "ledger", "one"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT * FROM cdc_counter.{relation}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("INSERT INTO cdc_counter.outbox (xid, deltas) VALUES ('1', '[]')")


async def test_truth_view_shows_the_same_keys_under_any_settings(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a timestamptz, b date, c bytea, d timestamp); CREATE SCHEMA hostile")
        counter = CounterDefinition(
            "one", "t", where="b > '2020-01-01' AND c <> '\\x00'", scope=("a",), by=("b", "c", "d")
        )
        await install(database, [counter])
        connection.execute(
            "INSERT INTO t VALUES (now(), '2021-01-01', '\\x0102', now()), ('infinity', 'infinity', '', '-infinity')"
        )
        before = truth(connection, "one")
        for setting in HOSTILE:
            connection.execute(setting)
        assert truth(connection, "one") == before == captured(connection, "one")
        assert ("infinity", '["infinity","","-infinity"]') in before


async def test_constant_in_a_condition_means_the_same_for_every_writer(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a timestamptz, i interval, s text); CREATE SCHEMA hostile")
        counter = CounterDefinition(
            "one", "t", where="a >= '2024-05-01 00:00:00' AND i > '-1 day -2 hours' AND s <> 'back\\slash'"
        )
        await install(database, [counter])
        for setting in HOSTILE:
            connection.execute(setting)
        connection.execute("INSERT INTO public.t VALUES ('2024-05-01 00:00:00+00', '-1 day', 'x')")
        connection.execute("INSERT INTO public.t VALUES ('2024-04-30 23:59:59+00', '-1 day', 'x')")
        connection.execute("INSERT INTO public.t VALUES ('2024-06-01 00:00:00+00', '-3 days', 'x')")
        as_owner(connection)
        assert assert_exact(connection, [counter]) == {"one": {("-", "-"): 1}}


async def test_texts_that_depend_on_settings_are_written_under_ours(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (f float8, tags text[]); CREATE SCHEMA hostile")
        floats = CounterDefinition("floats", "t", by=("f::text",))
        arrays = CounterDefinition("arrays", "t", where="tags = '{x,NULL}'")
        await install(database, [floats, arrays])
        for setting in HOSTILE:
            connection.execute(setting)
        connection.execute("INSERT INTO public.t VALUES (0.1::float8 + 0.2::float8, ARRAY['x', NULL])")
        as_owner(connection)
        assert assert_exact(connection, [floats, arrays]) == {
            "floats": {("-", "0.30000000000000004"): 1},
            "arrays": {("-", "-"): 1},
        }


async def test_numeric_keys_that_are_equal_share_a_text(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (k numeric)")
        one = CounterDefinition("one", "t", by=("k",))
        two = CounterDefinition("two", "t", by=("k", "k"))
        await install(database, [one, two])
        for value in ("1", "1.0", "1.00", "100", "NaN", "Infinity", "0", "-0.0"):
            connection.execute(f"INSERT INTO t VALUES ('{value}')")
        assert assert_exact(connection, [one, two]) == {
            "one": {("-", "1"): 3, ("-", "100"): 1, ("-", "NaN"): 1, ("-", "Infinity"): 1, ("-", "0"): 2},
            "two": {
                ("-", "[1,1]"): 3,
                ("-", "[100,100]"): 1,
                ("-", '["NaN","NaN"]'): 1,
                ("-", '["Infinity","Infinity"]'): 1,
                ("-", "[0,0]"): 2,
            },
        }


async def test_names_with_quotes_and_spaces_are_counted(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            'CREATE SCHEMA "Odd schema"; CREATE TABLE "Odd schema"."we""ird; drop table x;--" ("k,|:\'x" int, "%I" int)'
        )
        counter = CounterDefinition(
            "one", '"Odd schema"."we""ird; drop table x;--"', where='"%I" > 0', by=('"k,|:\'x"',)
        )
        await install(database, [counter])
        table = '"Odd schema"."we""ird; drop table x;--"'
        connection.execute(f"INSERT INTO {table} VALUES (1, 1), (1, 1), (2, 0)")
        assert assert_exact(connection, [counter]) == {"one": {("-", "1"): 2}}
        connection.execute(f"TRUNCATE {table}")
        assert assert_exact(connection, [counter]) == {"one": {}}
