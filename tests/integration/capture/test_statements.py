"""Every way in which rows change, each compared with the recount and with what is expected."""

from typing import Any

import psycopg
import pytest

from tests.integration.capture.helpdesk import (
    as_owner,
    as_writer,
    assert_exact,
    entries,
)

Connection = psycopg.Connection[Any]

SEED = (
    "INSERT INTO conversations (id, account_id, channel_id, status, tags, amount) VALUES"
    " (1, 1, 7, 'open', '{a,b}', 10.50), (2, 1, 7, 'open', '{a}', 1), (3, 2, 8, 'open', '{}', NULL),"
    " (4, 2, 8, 'closed', '{b,b}', -3.25)"
)
SEEDED = {("1", "7"): 2, ("2", "8"): 1}

STATEMENTS = {
    "insert": ("INSERT INTO conversations (account_id, channel_id) VALUES (1, 7)", {("1", "7"): 3, ("2", "8"): 1}),
    "bulk insert": (
        "INSERT INTO conversations (account_id, channel_id) SELECT 1, i % 3 FROM generate_series(1, 300) AS i",
        {**SEEDED, ("1", "0"): 100, ("1", "1"): 100, ("1", "2"): 100},
    ),
    "update of what is counted": (
        "UPDATE conversations SET status = 'closed' WHERE id = 1",
        {("1", "7"): 1, ("2", "8"): 1},
    ),
    "update of the scope": (
        "UPDATE conversations SET account_id = 2 WHERE id = 1",
        {("1", "7"): 1, ("2", "8"): 1, ("2", "7"): 1},
    ),
    "update of the bucket": (
        "UPDATE conversations SET channel_id = 9 WHERE id = 1",
        {("1", "7"): 1, ("1", "9"): 1, ("2", "8"): 1},
    ),
    "bulk update": ("UPDATE conversations SET status = 'closed', amount = amount * 2", {}),
    "update to null": (
        "UPDATE conversations SET channel_id = NULL, amount = NULL, tags = '{}'",
        {("1", "\\N"): 2, ("2", "\\N"): 1},
    ),
    "delete": ("DELETE FROM conversations WHERE id = 1", {("1", "7"): 1, ("2", "8"): 1}),
    "bulk delete": ("DELETE FROM conversations", {}),
    "on conflict do update": (
        (
            "INSERT INTO conversations (id, account_id, channel_id) VALUES (1, 1, 7), (50, 1, 7)"
            " ON CONFLICT (id) DO UPDATE SET status = 'closed', amount = 99"
        ),
        SEEDED,
    ),
    "on conflict do nothing": (
        "INSERT INTO conversations (id, account_id, channel_id) VALUES (1, 1, 7), (50, 1, 7) ON CONFLICT DO NOTHING",
        {("1", "7"): 3, ("2", "8"): 1},
    ),
    "merge": (
        (
            "MERGE INTO conversations AS c USING (VALUES (1, 'closed'), (2, 'gone'), (60, 'open')) AS n (id, status)"
            " ON c.id = n.id WHEN MATCHED AND n.status = 'gone' THEN DELETE"
            " WHEN MATCHED THEN UPDATE SET status = n.status"
            " WHEN NOT MATCHED THEN INSERT (id, account_id, channel_id) VALUES (n.id, 3, 1)"
        ),
        {("2", "8"): 1, ("3", "1"): 1},
    ),
    "several writing parts in one statement": (
        (
            "WITH gone AS (DELETE FROM conversations WHERE id = 1 RETURNING *),"
            " changed AS (UPDATE conversations SET channel_id = 5 WHERE id = 2),"
            " more AS (INSERT INTO conversations (account_id, channel_id) VALUES (4, 4), (4, 4))"
            " INSERT INTO conversations (account_id, channel_id) SELECT account_id, 6 FROM gone"
        ),
        {("1", "5"): 1, ("1", "6"): 1, ("2", "8"): 1, ("4", "4"): 2},
    ),
    "cascading delete": ("DELETE FROM accounts WHERE id = 1", {("2", "8"): 1}),
    "cascading update": ("UPDATE accounts SET id = 11 WHERE id = 1", {("11", "7"): 2, ("2", "8"): 1}),
    "truncate": ("TRUNCATE conversations", {}),
    "cascading truncate": ("TRUNCATE accounts CASCADE", {}),
    "truncate after writes of the same transaction": (
        (
            "BEGIN; INSERT INTO conversations (account_id) VALUES (1); DELETE FROM conversations WHERE id = 1;"
            " TRUNCATE conversations; INSERT INTO conversations (account_id, channel_id) VALUES (5, 5); COMMIT"
        ),
        {("5", "5"): 1},
    ),
    "truncate rolled back": ("BEGIN; TRUNCATE conversations; ROLLBACK", SEEDED),
    "rollback": ("BEGIN; DELETE FROM conversations; ROLLBACK", SEEDED),
    "savepoint rolled back": (
        (
            "BEGIN; UPDATE conversations SET status = 'closed' WHERE id = 1; SAVEPOINT a;"
            " DELETE FROM conversations; ROLLBACK TO a; UPDATE conversations SET channel_id = 3 WHERE id = 2; COMMIT"
        ),
        {("1", "3"): 1, ("2", "8"): 1},
    ),
    "prepared transaction": (
        "BEGIN; DELETE FROM conversations WHERE id = 1; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'",
        {("1", "7"): 1, ("2", "8"): 1},
    ),
    "prepared transaction rolled back": (
        "BEGIN; DELETE FROM conversations WHERE id = 1; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'",
        SEEDED,
    ),
}


@pytest.mark.parametrize(("statement", "expected"), STATEMENTS.values(), ids=STATEMENTS.keys())
def test_statement_is_counted_exactly(
    connection: Connection, statement: str, expected: dict[tuple[str, str], int]
) -> None:
    as_writer(connection)
    connection.execute(SEED)
    for part in statement.split("; "):  # PREPARE TRANSACTION must be sent alone
        connection.execute(part)
    as_owner(connection)
    assert assert_exact(connection)["open"] == expected


def test_copy_is_counted(connection: Connection) -> None:
    as_writer(connection)
    with connection.cursor().copy("COPY conversations (account_id, channel_id) FROM STDIN") as copy:
        for row in ((1, 7), (1, 7), (2, None)):
            copy.write_row(row)
    as_owner(connection)
    assert assert_exact(connection)["open"] == {("1", "7"): 2, ("2", "\\N"): 1}


def test_foreign_key_that_sets_null_or_default_is_counted(connection: Connection) -> None:
    for action, expected in (("NULL", "\\N"), ("DEFAULT", "1")):
        connection.execute("ALTER TABLE conversations DROP CONSTRAINT conversations_account_id_fkey")
        connection.execute(
            "ALTER TABLE conversations ADD CONSTRAINT conversations_account_id_fkey"
            f" FOREIGN KEY (account_id) REFERENCES accounts ON DELETE SET {action}"
        )
        connection.execute("INSERT INTO accounts VALUES (77)")
        connection.execute("INSERT INTO conversations (account_id, channel_id) VALUES (77, 1), (77, 1)")
        connection.execute("DELETE FROM accounts WHERE id = 77")
        assert assert_exact(connection)["open"][expected, "1"] == 2


def test_rows_changed_or_dropped_by_before_triggers_are_counted_as_stored(connection: Connection) -> None:
    connection.execute(
        "CREATE FUNCTION before_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.note = 'drop' THEN RETURN NULL; END IF; NEW.channel_id := 42; RETURN NEW; END $$;"
        "CREATE TRIGGER b BEFORE INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION before_write()"
    )
    as_writer(connection)
    connection.execute("INSERT INTO conversations (account_id, channel_id, note) VALUES (1, 1, 'drop'), (1, 2, 'keep')")
    connection.execute("UPDATE conversations SET note = 'drop', channel_id = 3")
    as_owner(connection)
    assert assert_exact(connection)["open"] == {("1", "42"): 1}


def test_nested_trigger_that_writes_the_same_table_is_counted(connection: Connection) -> None:
    connection.execute(
        "CREATE FUNCTION after_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE conversations SET channel_id = channel_id + 1 WHERE id = NEW.id AND channel_id < 5;"
        " RETURN NULL; END $$;"
        "CREATE TRIGGER a AFTER INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION after_write()"
    )
    as_writer(connection)
    connection.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 1), (1, 3), (1, 9)")
    as_owner(connection)
    assert assert_exact(connection)["open"] == {("1", "5"): 2, ("1", "9"): 1}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE conversations SET note = 'x'",
        "UPDATE conversations SET status = 'closed' WHERE id = -1",
        "UPDATE conversations SET channel_id = 15 - channel_id",
        "DELETE FROM conversations WHERE id = -1",
        "INSERT INTO conversations SELECT * FROM conversations WHERE false",
        "TRUNCATE conversations, accounts",
    ],
)
def test_statement_without_a_net_change_leaves_no_outbox_row(connection: Connection, statement: str) -> None:
    if not statement.startswith("TRUNCATE"):
        connection.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 7), (1, 8)")
    before = len(entries(connection))
    connection.execute(statement)
    assert len(entries(connection)) == before


def test_firing_leaves_one_packed_row_with_its_top_level_xid(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("SAVEPOINT a")
        connection.execute(
            "INSERT INTO conversations (account_id, channel_id) SELECT 1 + i % 5, i FROM generate_series(1, 100) AS i"
        )
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
    assert row is not None
    assert connection.execute("SELECT xid::text FROM cdc_counter.outbox").fetchall() == [(row[0],)]
    assert_exact(connection)


def test_firing_with_many_keys_is_cut_into_bounded_rows(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO conversations (account_id, channel_id) SELECT 1, i FROM generate_series(1, 25000) AS i"
    )
    sizes = connection.execute("SELECT json_array_length(deltas::json) FROM cdc_counter.outbox").fetchall()
    assert max(size for (size,) in sizes) == 1_000
    assert len(sizes) >= 25
    assert_exact(connection)


def test_truncate_with_an_old_snapshot_is_marked_for_a_recount(connection: Connection, helpdesk: str) -> None:
    connection.execute(SEED)
    with psycopg.connect(helpdesk) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        connection.execute("INSERT INTO conversations (account_id) VALUES (1)")
        old.execute("TRUNCATE conversations")
    broken = {entry[0]: entry[1] for entry in entries(connection) if len(entry) == 3}
    assert set(broken.values()) == {"0A000"}
    assert len(broken) == 5


def test_rule_that_rewrites_the_statement_is_counted(connection: Connection) -> None:
    connection.execute(
        "CREATE RULE archive AS ON DELETE TO conversations DO INSTEAD"
        " UPDATE conversations SET status = 'archived' WHERE id = OLD.id"
    )
    connection.execute(SEED)
    connection.execute("DELETE FROM conversations WHERE id = 1")
    assert assert_exact(connection)["open"] == {("1", "7"): 1, ("2", "8"): 1}
