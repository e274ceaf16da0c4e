"""The outbox can't be written: the application's write goes through, at once, and the loss is told in the WAL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.outbox import outbox_prefix, parse_notice
from cdc_counter.core.pgoutput import LogicalMessage, parse_message
from tests.integration.capture.helpdesk import (
    SCHEMA,
    TABLES,
    as_owner,
    as_writer,
    assert_exact,
    entries,
    install,
    make_writer,
)

Connection = psycopg.Connection[Any]

INSERT = "INSERT INTO conversations (account_id, channel_id) VALUES (1, 7)"

WRITES = (
    INSERT,
    "INSERT INTO conversations (account_id, channel_id) SELECT i % 5 + 1, i FROM generate_series(1, 2500) AS i",
    "UPDATE conversations SET channel_id = channel_id + 1",
    "DELETE FROM conversations WHERE channel_id < 100",
    "TRUNCATE conversations",
)

INSTALLER = """
DO $$ BEGIN CREATE ROLE cdc_test_installer; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
GRANT USAGE ON SCHEMA cdc_counter, public TO cdc_test_installer;
GRANT ALL ON ALL TABLES IN SCHEMA cdc_counter, public TO cdc_test_installer;
DO $$ DECLARE f regprocedure; BEGIN
    FOR f IN SELECT oid FROM pg_proc WHERE proname LIKE 'capture_%' LOOP
        EXECUTE 'ALTER FUNCTION ' || f || ' OWNER TO cdc_test_installer';
    END LOOP;
END $$
"""
"""Makes the capture functions those of an ordinary role, which can lose its rights."""

LEAVES = [f"outbox_{part}" for part in range(8)]

OBSTACLES = (
    ("ALTER TABLE cdc_counter.outbox RENAME TO old", "ALTER TABLE cdc_counter.old RENAME TO outbox"),
    (
        "CREATE SCHEMA elsewhere; ALTER TABLE cdc_counter.outbox SET SCHEMA elsewhere",
        "ALTER TABLE elsewhere.outbox SET SCHEMA cdc_counter",
    ),
    (
        "REVOKE INSERT ON cdc_counter.outbox FROM cdc_test_installer",
        "GRANT INSERT ON cdc_counter.outbox TO cdc_test_installer",
    ),
    (
        "REVOKE ALL ON cdc_counter.outbox FROM cdc_test_installer",
        "GRANT ALL ON cdc_counter.outbox TO cdc_test_installer",
    ),
    ("DROP TABLE " + ", ".join(f"cdc_counter.{leaf}" for leaf in LEAVES), ""),
    ("DROP TABLE cdc_counter.outbox CASCADE", ""),
)
"""What somebody does to the outbox, and how it is undone."""


@contextmanager
def losses(connection: Connection) -> Iterator[Callable[[], set[int]]]:
    """Give a function that returns the counters that the WAL says were not captured since the block began."""
    connection.execute("SELECT pg_create_logical_replication_slot('losses', 'pgoutput')")

    def told() -> set[int]:
        rows = connection.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('losses', NULL, NULL, 'proto_version', '1',"
            " 'publication_names', 'cdc_counter', 'messages', 'true')"
        ).fetchall()
        messages = [parse_message(data) for (data,) in rows if data[:1] == b"M"]
        contents = [
            message.content
            for message in messages
            if isinstance(message, LogicalMessage) and message.prefix == outbox_prefix(SCHEMA, "outbox")
        ]
        losses = [parse_notice(content) for content in contents]
        assert None not in losses, contents
        return {counter for loss in losses if loss for counter in loss.counters}

    try:
        yield told
    finally:
        connection.execute("SELECT pg_drop_replication_slot('losses')")


@contextmanager
def held(dsn: str, *tables: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[None]:
    """Hold a lock as VACUUM FULL, CREATE INDEX or an ALTER TABLE does."""
    with psycopg.connect(dsn) as holder:
        holder.execute(f"LOCK TABLE {', '.join(tables)} IN {mode} MODE")
        yield
        holder.rollback()


def write(connection: Connection) -> None:
    """Write as the application does; waiting for anybody is an error."""
    as_writer(connection)
    connection.execute("SET lock_timeout = '20s'")
    for statement in WRITES:
        connection.execute(statement)
    as_owner(connection)


def all_ids(connection: Connection) -> set[int]:
    return {number for (number,) in connection.execute("SELECT id FROM cdc_counter.counters WHERE retired_at IS NULL")}


def test_write_passes_whatever_has_become_of_the_outbox_and_the_loss_is_told(connection: Connection) -> None:
    connection.execute(INSTALLER)
    write(connection)
    assert_exact(connection)
    for spoil, mend in OBSTACLES:
        connection.execute(spoil)
        with losses(connection) as told:
            write(connection)
            assert told() == all_ids(connection), spoil
        if mend:
            connection.execute(mend)


def test_write_waits_for_nobody_who_holds_the_outbox(connection: Connection, helpdesk: str) -> None:
    for mode in ("ACCESS EXCLUSIVE", "SHARE"):
        with losses(connection) as told, held(helpdesk, "cdc_counter.outbox", mode=mode):
            write(connection)
            assert told() == all_ids(connection)
    write(connection)


def test_write_goes_to_another_partition_while_somebody_holds_this_hours(connection: Connection, helpdesk: str) -> None:
    connection.execute(INSERT)
    ((leaf, part),) = connection.execute("SELECT tableoid::regclass::text, part FROM cdc_counter.outbox").fetchall()
    with losses(connection) as told:
        with held(helpdesk, leaf):
            as_writer(connection)
            connection.execute("SET lock_timeout = '20s'")
            connection.execute(INSERT)
            as_owner(connection)
        assert told() == set()
    parts = {part for (part,) in connection.execute("SELECT part FROM cdc_counter.outbox")}
    assert parts == {part, (part - 1) % 8}
    assert assert_exact(connection)["open"] == {("1", "7"): 2}


def test_write_passes_where_even_the_wal_may_not_be_told(connection: Connection) -> None:
    connection.execute(
        "DO $$ DECLARE f regprocedure; BEGIN"
        " FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP"
        " EXECUTE 'REVOKE EXECUTE ON FUNCTION ' || f || ' FROM PUBLIC'; END LOOP; END $$"
    )
    connection.execute(INSTALLER)
    connection.execute("ALTER TABLE cdc_counter.outbox RENAME TO old")
    with losses(connection) as told:
        write(connection)
        assert told() == set()


async def test_loss_is_told_in_whatever_encoding_the_server_speaks(database: str) -> None:
    """The stream sends a message as it is, while it converts rows."""
    name = "latin"
    with psycopg.connect(database, autocommit=True) as maker:
        maker.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
    dsn = make_conninfo(database, dbname=name)
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLES)
            make_writer(connection)
            await install(dsn)
            # As a server whose lc_messages are German does.
            for (source,) in connection.execute(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'capture_%'"
            ).fetchall():
                taking = "EXECUTE format("
                assert taking in source
                connection.execute(source.replace(taking, f"RAISE EXCEPTION 'Sperre für »%»', 1; {taking}"))
            with losses(connection) as told:
                write(connection)
                assert told() == all_ids(connection)
    finally:
        with psycopg.connect(database, autocommit=True) as maker:
            maker.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_rolled_back_write_tells_nothing(connection: Connection) -> None:
    with losses(connection) as told:
        connection.execute("ALTER TABLE cdc_counter.outbox RENAME TO old")
        with connection.transaction(force_rollback=True):
            connection.execute(INSERT)
        assert told() == set()


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
@pytest.mark.parametrize("spoil", ["", "ALTER TABLE cdc_counter.outbox RENAME TO old"])
def test_firing_takes_no_transaction_number_of_its_own(connection: Connection, helpdesk: str, spoil: str) -> None:
    """More than 64 subtransactions with numbers would slow down every session of the cluster."""
    connection.execute(spoil)
    with psycopg.connect(helpdesk) as writer:
        for _ in range(100):
            writer.execute(INSERT)
        row = connection.execute(
            "SELECT (pg_stat_get_backend_subxact(id)).subxact_count FROM pg_stat_get_backend_idset() AS id"
            " WHERE pg_stat_get_backend_pid(id) = %s",
            [writer.info.backend_pid],
        ).fetchone()
        assert row == (0,)


SETTINGS = {
    "exit_on_error": "on",
    "plpgsql.extra_errors": "all",
    "plpgsql.variable_conflict": "error",
    "default_transaction_isolation": "serializable",
    "transform_null_equals": "on",
    "statement_timeout": "20s",
    "lock_timeout": "1ms",
    "row_security": "off",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "check_function_bodies": "off",
    "vacuum_cost_delay": "10",
    "client_min_messages": "error",
}


def test_broken_counter_breaks_no_write_whatever_the_session_has_set(connection: Connection) -> None:
    connection.execute("ALTER TABLE conversations RENAME COLUMN assignee_id TO assigned_to")
    for setting, value in SETTINGS.items():
        with psycopg.connect(connection.info.dsn, autocommit=True) as writer:
            writer.execute(f"SET {setting} = '{value}'")
            writer.execute(INSERT)
            writer.execute("UPDATE conversations SET channel_id = 8")
    broken = [entry[0] for entry in entries(connection) if len(entry) == 3]
    assert len(broken) == 2 * len(SETTINGS)
    assert len(set(broken)) == 1


def test_statement_that_is_cancelled_in_our_function_is_cancelled_whole(connection: Connection) -> None:
    """The application asked for it: its statement ends with its own error, and nothing of it is left."""
    connection.execute(
        "CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        " $$ BEGIN PERFORM pg_sleep(60); RETURN $1; END $$;"
        "DROP VIEW cdc_counter.open"
    )
    ((source, name),) = connection.execute(
        "SELECT pg_get_functiondef(oid), proname FROM pg_proc WHERE proname LIKE 'capture_insert_%'"
    ).fetchall()
    assert "new_rows" in source, name
    connection.execute(source.replace("    BEGIN\n", "    BEGIN PERFORM public.slow(1);\n", 1))
    as_writer(connection)
    connection.execute("SET statement_timeout = '50ms'")
    with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
        connection.execute(INSERT)
    as_owner(connection)
    assert connection.execute("SELECT count(*) FROM conversations").fetchone() == (0,)
    assert entries(connection) == []


def test_serializable_writers_do_not_meet_in_the_outbox(connection: Connection, helpdesk: str) -> None:
    """Two overlapping transactions on rows of their own commit, as they would without counters."""
    with psycopg.connect(helpdesk) as one, psycopg.connect(helpdesk) as two:
        for writer in (one, two):
            writer.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        for _ in range(20):
            for writer in (one, two):
                writer.execute(INSERT)
            for writer in (one, two):
                writer.execute(INSERT)
                writer.commit()
    assert assert_exact(connection)["open"] == {("1", "7"): 80}


def test_assertion_in_a_function_of_the_application_breaks_no_write(connection: Connection) -> None:
    """PostgreSQL lets ASSERT pass WHEN OTHERS."""
    ((source,),) = connection.execute(
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'capture_insert_%'"
    ).fetchall()
    connection.execute(source.replace("    BEGIN\n", "    BEGIN ASSERT false;\n", 1))
    connection.execute(INSERT)
    assert_exact(connection)


async def test_write_goes_through_where_a_right_is_revoked_within_its_transaction(database: str) -> None:
    """The session has planned and asked before; that something has changed it hears when it takes a lock."""
    counter = CounterDefinition("open", "t", where="a = 'open'", by=("id",))
    with psycopg.connect(database, autocommit=True) as owner, psycopg.connect(database, autocommit=True) as writer:
        owner.execute("CREATE TABLE t (id int, a text)")
        await install(database, [counter])
        owner.execute(INSTALLER)
        writer.execute("PREPARE write (int, text) AS INSERT INTO t VALUES ($1, $2)")
        for _ in range(8):
            writer.execute("EXECUTE write (1, 'open'); EXECUTE write (1, 'closed')")
        with losses(owner) as told:
            with writer.transaction():
                writer.execute("EXECUTE write (0, 'closed')")
                owner.execute("REVOKE INSERT ON cdc_counter.outbox FROM cdc_test_installer")
                writer.execute("EXECUTE write (3, 'open')")
            assert told() == {1}
