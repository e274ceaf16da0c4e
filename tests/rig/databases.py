"""A fresh database per test on a shared cluster, and its complete removal."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from cdc_counter.embedded import PostgresServer
from tests.rig.eventually import eventually_sync


@contextmanager
def fresh_database(server: PostgresServer, template: str = "template1") -> Iterator[str]:
    """Create a database, give its dsn, remove it with everything that would hold it: slots, prepared transactions.

    It is a copy of the one that is named, to which nobody may be connected.
    """
    name = f"t_{uuid.uuid4().hex[:12]}"
    if not server.running:
        server.start()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    try:
        yield server.dsn(name)
    finally:
        server.start()  # a test may have left it crashed
        _drop(server, name)


def _drop(server: PostgresServer, name: str) -> None:
    with psycopg.connect(server.dsn(name), autocommit=True) as connection:
        # Ended before the slots go, or they would be active; a client may reconnect meanwhile, hence the
        # repetition.
        eventually_sync(lambda: _drop_slots(connection, name), f"slots of {name} dropped")
        for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]).fetchall():
            connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _drop_slots(connection: psycopg.Connection, name: str) -> bool:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", [name]
    )
    try:
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name]
        )
    except psycopg.errors.ObjectInUse:
        return False
    return True


def database_name(dsn: str) -> str:
    """Return the name of the database that a dsn leads to."""
    return str(conninfo_to_dict(dsn)["dbname"])
