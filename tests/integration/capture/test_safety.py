"""What a writer can't do: see or forge counts, slip past the triggers, or run code as their owner."""

from typing import Any

import psycopg
import pytest

from cdc_counter.core.definition import CounterDefinition
from tests.integration.capture.helpdesk import WRITER, as_owner, as_writer, assert_exact, install, make_writer

Connection = psycopg.Connection[Any]


def test_replica_role_does_not_bypass_the_triggers(connection: Connection) -> None:
    connection.execute("SET session_replication_role = replica")
    connection.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 7)")
    as_owner(connection)
    assert assert_exact(connection)["open"] == {("1", "7"): 1}


def test_capture_function_can_not_be_attached_to_a_table_of_ones_own(connection: Connection) -> None:
    row = connection.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'capture_insert_%'").fetchone()
    assert row is not None
    connection.execute(f"GRANT USAGE ON SCHEMA cdc_counter TO {WRITER}")
    as_writer(connection)
    connection.execute("CREATE TEMP TABLE conversations (LIKE public.conversations)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for function"):
        connection.execute(
            "CREATE TRIGGER t AFTER INSERT ON pg_temp.conversations REFERENCING NEW TABLE AS new_rows"
            f" FOR EACH STATEMENT EXECUTE FUNCTION cdc_counter.{row[0]}()"
        )


def test_writer_can_not_create_anything_in_the_schema(connection: Connection) -> None:
    connection.execute(f"GRANT USAGE ON SCHEMA cdc_counter TO {WRITER}")
    as_writer(connection)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE FUNCTION cdc_counter.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")


async def test_functions_and_operators_of_the_writer_do_not_shadow_those_of_the_declaration(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE SCHEMA app; CREATE TABLE t (k text); CREATE SCHEMA evil;"
            "CREATE FUNCTION app.kind(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'app:' || $1$$"
        )
        make_writer(connection)
        connection.execute(f"GRANT ALL ON SCHEMA evil TO {WRITER}; GRANT USAGE ON SCHEMA app TO {WRITER}")
        counter = CounterDefinition("kinds", "t", where="upper(k) = 'A'", by=("app.kind(lower(k))",))
        await install(database, [counter])
        as_writer(connection)
        for name in ("lower", "upper", "kind", "to_json", "count"):
            for schema in ("evil", "pg_temp"):
                connection.execute(
                    f"CREATE FUNCTION {schema}.{name}(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS"
                    " $$ BEGIN RAISE EXCEPTION 'forged by %', current_user; END $$"
                )
        connection.execute(
            "CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';"
            "CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = text, RIGHTARG = text);"
            "CREATE TEMP TABLE outbox (xid xid8, deltas text); CREATE TEMP TABLE new_rows (k text);"
            "SET search_path = evil, pg_temp, public, pg_catalog"
        )
        connection.execute("INSERT INTO public.t VALUES ('A'), ('B')")
        as_owner(connection)
        assert assert_exact(connection, [counter]) == {"kinds": {("-", "app:a"): 1}}


def test_no_right_on_anything_of_ours_is_given_to_everybody(connection: Connection) -> None:
    granted = connection.execute(
        "SELECT c.relname FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'cdc_counter'::regnamespace"
        " AND a.grantee = 0 UNION ALL SELECT p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl,"
        " acldefault('f', p.proowner))) a WHERE p.pronamespace = 'cdc_counter'::regnamespace AND a.grantee = 0"
    ).fetchall()
    assert granted == []


def test_column_in_use_can_not_be_dropped_or_change_its_type(connection: Connection) -> None:
    for change in ("DROP COLUMN channel_id", "ALTER COLUMN channel_id TYPE bigint", "DROP COLUMN amount"):
        with pytest.raises((psycopg.errors.DependentObjectsStillExist, psycopg.errors.FeatureNotSupported)):
            connection.execute(f"ALTER TABLE conversations {change}")
    connection.execute("ALTER TABLE conversations DROP COLUMN note")


def test_writer_does_not_wait_for_another_writers_transaction(connection: Connection, helpdesk: str) -> None:
    with psycopg.connect(helpdesk) as other:
        other.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 7)")
        connection.execute("SET lock_timeout = '5s'")
        connection.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 7)")
    assert assert_exact(connection)["open"] == {("1", "7"): 2}
