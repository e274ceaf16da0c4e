"""Declarations that could not be kept exact are refused, with the counter, the key and the reason."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.embedded import PostgresServer
from cdc_counter.errors import DefinitionError
from cdc_counter.postgres.probe import probe
from tests.integration.capture.helpdesk import TABLES as HELPDESK
from tests.rig.databases import database_name, fresh_database

TABLES = """
CREATE TABLE t (
    id int PRIMARY KEY, junk int, status text, f float8, n numeric, ts timestamptz, local timestamp, d date,
    tags text[], doc json, folded text, parts int4range, pair point, secret xml, old int
);
ALTER TABLE t DROP COLUMN junk;
CREATE VIEW v AS SELECT * FROM t;
CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
CREATE SEQUENCE s;
CREATE UNLOGGED TABLE fast (id int);
CREATE TABLE parent (id int);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE parted (id int) PARTITION BY LIST (id);
CREATE TABLE leaf PARTITION OF parted FOR VALUES IN (1);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE far (id int) SERVER elsewhere;
CREATE TABLE mixed (id int) PARTITION BY LIST (id);
CREATE FOREIGN TABLE mixed_far PARTITION OF mixed FOR VALUES IN (1) SERVER elsewhere;
CREATE FUNCTION steady() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
"""


@pytest.fixture(scope="module")
def prepared(postgres: PostgresServer) -> Iterator[str]:
    """Name a database with all of these relations and the helpdesk's, to be copied."""
    with fresh_database(postgres) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(HELPDESK)
            connection.execute(TABLES.encode())
        yield database_name(dsn)


@pytest.fixture
async def session(postgres: PostgresServer, prepared: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Open an autocommit connection to a copy of it as the superuser."""
    with fresh_database(postgres, template=prepared) as dsn:
        async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
            yield connection


def of(**parts: Any) -> CounterDefinition:
    return CounterDefinition(**{"name": "c", "table": "t", **parts})


EXPRESSIONS = {
    "clock": (of(where="ts > now()"), r"where = 'ts > now\(\)' uses now\(\), which is not immutable"),
    "clock_timestamp": (of(where="ts > clock_timestamp()"), "not immutable"),
    "current date": (of(where="d = current_date"), "session or the clock"),
    "current user": (of(where="status = current_user"), "session or the clock"),
    "random": (of(where="random() > 0.5"), "not immutable"),
    "stable function": (of(by=("steady()",)), r"steady\(\), which is not immutable"),
    "session setting": (of(where="status = current_setting('app.x')"), "not immutable"),
    "sequence": (of(by=("nextval('s')",)), "not immutable"),
    "sleep": (of(where="pg_sleep(1) IS NULL"), "not immutable"),
    "time zone of the session": (of(by=("ts::date",)), "not immutable"),
    "date style": (of(by=("d::text",)), "not immutable"),
    "date style in a text operator": (of(by=("d || 'x'",)), "not immutable"),
    "locale of to_char": (of(by=("to_char(local, 'YYYY-MM')",)), "not immutable"),
    "conversion from text": (of(by=("status::timestamp",)), "not immutable"),
    "folded literal": (of(where="d >= 'today'"), "literal 'today'"),
    "folded literal with a time": (of(where="ts > 'yesterday 10:00'"), "literal 'yesterday'"),
    "folded literal in upper case": (of(where="local > TIMESTAMP 'NOW'"), "literal 'now'"),
    "subquery": (of(where="id IN (SELECT 1)"), "uses a subquery"),
    "exists": (of(where="EXISTS (SELECT FROM v)"), "uses a subquery"),
    "aggregate": (of(by=("max(id)",)), "uses an aggregate"),
    "window function": (of(by=("row_number() OVER ()",)), "uses a window function"),
    "whole row": (of(by=("t::text",)), "whole row"),
    "system column": (of(by=("tableoid",)), "system column"),
    "unknown column": (of(where="statuss = 'open'"), 'column "statuss" does not exist'),
    "unknown function": (of(by=("lowr(status)",)), "does not exist"),
    "not a condition": (of(where="id"), "must be type boolean"),
    "set in the scope": (of(scope=("unnest(tags)",)), "returns a set"),
    "set in the measure": (of(sum_of="generate_series(1, id)"), "returns a set"),
    "set in the condition": (of(where="unnest(tags) = 'a'"), "set-returning functions are not allowed in WHERE"),
    "set inside": (of(by=("upper(unnest(tags))",)), "set-returning function inside"),
    "parameter": (of(by=("$1",)), "no parameter"),
    "empty": (of(by=("",)), "syntax error|is not understood"),
    "star": (of(by=("*",)), "is not understood"),
    "second statement": (of(where="true; DROP TABLE t"), "syntax error"),
    "second column": (of(by=("id), (status",)), "is more than one expression"),
    "second source": (of(by=("1) AS x FROM pg_authid UNION SELECT (2",)), "is more than an expression"),
    "second source in the condition": (of(where="true) UNION SELECT (1"), "is more than an expression"),
    "ordering": (of(where="true) ORDER BY (1"), "is more than an expression"),
    "limit": (of(where="true) LIMIT (1"), "is more than an expression"),
    "locking": (of(where="true) FOR UPDATE --"), "is not understood"),
    "comment over two keys": (of(by=("1 /*", "*/ + 2")), "unterminated"),
    "float key": (of(by=("f",)), "float8 can't be a key"),
    "array key": (of(by=("tags",)), "can't be a key"),
    "json key": (of(by=("doc",)), "can't be a key"),
    "range key": (of(by=("parts",)), "can't be a key"),
    "interval key": (of(by=("local - local",)), "can't be a key"),
    "float sum": (of(sum_of="f"), "can't be added exactly"),
    "sum without a scale": (of(sum_of="n"), "without a declared scale"),
    "sum of texts": (of(sum_of="status"), "can't be added exactly"),
}


@pytest.mark.parametrize(("definition", "reason"), EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
async def test_expression_is_refused(session: AsyncConnection[Any], definition: CounterDefinition, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason) as caught:
        await probe(session, definition, "cdc_counter")
    assert str(caught.value).startswith("counter 'c': ")
    assert caught.value.hint


# The wheel's PostgreSQL 18 is built without ICU, the only provider of such collations.
@pytest.mark.parametrize("postgres", ["15"], indirect=True)
async def test_key_with_a_folding_collation_is_refused(session: AsyncConnection[Any]) -> None:
    await session.execute("CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    with pytest.raises(DefinitionError, match="calls different texts equal"):
        await probe(session, of(by=("folded COLLATE nocase",)), "cdc_counter")
    assert (await probe(session, of(by=('folded COLLATE nocase COLLATE "C"',)), "cdc_counter")).by


RELATIONS = {
    "nothing": "does not exist",
    "a b": "does not exist|is not a name",
    "a.b.c.d": "is not a name",
    "v": "is a view",
    "m": "is a materialized view",
    "s": "is a sequence",
    "far": "is a foreign table",
    "mixed": "is a foreign table",
    "brief": "is temporary",
    "fast": "is unlogged",
    "parent": "inherits or is inherited",
    "child": "inherits or is inherited",
    "leaf": "is a partition",
    "pg_class": "is a system catalog",
    "information_schema.sql_features": "is a system catalog",
    "guarded": "row-level security",
}


@pytest.mark.parametrize(("table", "reason"), RELATIONS.items(), ids=RELATIONS.keys())
async def test_relation_is_refused(session: AsyncConnection[Any], table: str, reason: str) -> None:
    await session.execute("CREATE TEMP TABLE brief (id int)")
    if table == "guarded":
        # An ordinary owner whom a forced policy binds as well.
        await session.execute(
            "DO $$ BEGIN CREATE ROLE cdc_test_owner; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$"
        )
        await session.execute("GRANT ALL ON SCHEMA public TO cdc_test_owner; SET ROLE cdc_test_owner")
        await session.execute(
            "CREATE TABLE guarded (id int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;"
            "ALTER TABLE guarded FORCE ROW LEVEL SECURITY"
        )
    with pytest.raises(DefinitionError, match=reason) as caught:
        await probe(session, of(table=table), "cdc_counter")
    assert caught.value.hint


async def test_near_miss_of_a_table_is_suggested(session: AsyncConnection[Any]) -> None:
    with pytest.raises(DefinitionError) as caught:
        await probe(session, of(table="conversation"), "cdc_counter")
    assert caught.value.hint == "did you mean 'conversations'?"


async def test_near_miss_of_a_column_is_suggested(session: AsyncConnection[Any]) -> None:
    with pytest.raises(DefinitionError) as caught:
        await probe(session, of(table="conversations", by=("chanel_id",)), "cdc_counter")
    assert "channel_id" in caught.value.hint


async def test_target_of_a_logical_subscription_is_refused(session: AsyncConnection[Any]) -> None:
    await session.execute("CREATE TABLE copied (id int)")
    await session.execute("CREATE SUBSCRIPTION sub CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)")
    await session.execute(
        "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
        " SELECT oid, 'copied'::regclass, 'r' FROM pg_subscription WHERE subname = 'sub'"
    )
    try:
        with pytest.raises(DefinitionError, match="target of a logical subscription"):
            await probe(session, of(table="copied"), "cdc_counter")
    finally:
        await session.execute("ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub")


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
async def test_virtual_generated_column_is_refused_and_a_stored_one_is_not(session: AsyncConnection[Any]) -> None:
    await session.execute(
        "CREATE TABLE g (a int, v int GENERATED ALWAYS AS (a * 2) VIRTUAL, s int GENERATED ALWAYS AS (a * 2) STORED)"
    )
    with pytest.raises(DefinitionError, match="virtual generated column 'v'"):
        await probe(session, of(table="g", by=("v + 1",)), "cdc_counter")
    assert (await probe(session, of(table="g", by=("s",)), "cdc_counter")).by


ALLOWED = {
    "utc date": of(by=("(ts AT TIME ZONE 'UTC')::date",)),
    "truncated date": of(by=("date_trunc('day', local)",)),
    "case": of(where="CASE WHEN id > 1 THEN status = 'x' ELSE false END"),
    "in list": of(where="status IN ('a', 'b') AND id BETWEEN 1 AND 10 AND tags @> ARRAY['x']"),
    "set": of(by=("unnest(tags)",)),
    "series": of(by=("generate_series(1, id)",)),
    "array element": of(by=("tags[1]", "coalesce(status, 'none')")),
    "json field": of(by=("doc ->> 'kind'",)),
    "greatest": of(by=("greatest(id, 3)",), where="id IS DISTINCT FROM 3 AND NOT nullif(id, 2) IS NULL"),
    "float made numeric": of(by=("f::numeric(12,2)",)),
    "comment at the end": of(where="id > 0 -- positive", by=("id -- the id",)),
    "day named today": of(where="status = 'today'"),
    "float text": of(by=("f::text",)),
    "matching": of(where="status LIKE 'a%' OR status ~ '^b'"),
}


@pytest.mark.parametrize("definition", ALLOWED.values(), ids=ALLOWED.keys())
async def test_expression_is_understood(session: AsyncConnection[Any], definition: CounterDefinition) -> None:
    assert (await probe(session, definition, "cdc_counter")).relation.name == "t"
    left = await session.execute("SELECT relname FROM pg_class WHERE relname LIKE 'cdc_probe%'")
    assert await left.fetchall() == []
