"""Copies of a database, whole or in part: none passes for the one that was counted, and nothing is counted twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from cdc_counter.embedded import PostgresServer
from tests.fault.deployment import Deployment, Traffic, command, wait_said
from tests.fault.losses import wait_new_epoch
from tests.rig.databases import fresh_database
from tests.rig.programs import copy_server, run_program
from tests.rig.tallies import end_of_wal, watermark

REFUSED = 5


@contextmanager
def copied(server: PostgresServer) -> Iterator[PostgresServer]:
    """Start a copy of this server beside it: same system identifier, same timeline, no slots."""
    copy = PostgresServer(fsync=False)
    try:
        copy_server(server, copy)
        copy.start()
        yield copy
    finally:
        copy.close()


def write_wal_until(dsn: str, lsn: int) -> None:
    """Write to this server until its WAL ends beyond a position."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        while end_of_wal(dsn) <= lsn:
            connection.execute("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))")


@pytest.mark.programme
def test_a_copy_of_the_server_takes_the_tallies_of_no_consumer_that_streams(
    postgres18: PostgresServer, deployment18: Deployment
) -> None:
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    epoch = deployment.epoch()
    with copied(postgres18) as copy:
        # Nothing is written, so that no watermark tells that somebody goes on.
        config = deployment.write_config("copy", dsn=copy.dsn(deployment.dsn.rpartition("/")[2]))
        beside = deployment.daemon("beside", config, "--role", "consumer").start()
        wait_said(beside, "standing by", deadline=60)
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        assert beside.terminate() == 0
    deployment.assert_exact()
    assert deployment.epoch() == epoch
    assert daemon.log_text().count("streaming slot") == 1


@pytest.mark.programme
def test_tallies_that_a_copy_of_the_server_counted_are_not_gone_on_with(
    postgres18: PostgresServer, deployment18: Deployment
) -> None:
    """Nothing in them is of this server, and every position fits: system, timeline, database and LSNs."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    with copied(postgres18) as copy:
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        daemon.kill()
        dsn = copy.dsn(deployment.dsn.rpartition("/")[2])
        old = deployment.epoch()
        write_wal_until(dsn, deployment.slot_position())
        beside = deployment.daemon("beside", deployment.write_config("copy", dsn=dsn), "--role", "consumer").start()
        theirs = wait_new_epoch(deployment, old, deadline=60)
        wait_said(beside, "counter visits_by_page is live", deadline=60)
        beside.kill()
    write_wal_until(deployment.dsn, watermark(deployment.redis_url))
    daemon.start()
    wait_new_epoch(deployment, theirs, deadline=60)
    deployment.assert_exact()


@pytest.mark.programme
def test_a_restored_dump_is_another_database_and_counts_for_itself(
    postgres18: PostgresServer, deployment18: Deployment
) -> None:
    """Tables, triggers, publication and outbox come back; slot and tallies do not."""
    deployment = deployment18
    deployment.init()
    deployment.daemon().start().wait_ready()
    dump = postgres18.folder / "whole.dump"
    name = deployment.dsn.rpartition("/")[2]
    run_program(postgres18, "pg_dump", "-d", deployment.dsn, "-Fc", "-f", dump)
    with fresh_database(postgres18) as dsn:
        run_program(postgres18, "pg_restore", "-d", dsn, dump)
        dump.unlink()
        same = deployment.write_config("same", dsn=dsn)
        for words in (("init",), ("run", "--role", "consumer")):
            refused = command(*words, config=same)
            assert (refused.returncode, "oid" in refused.stderr) == (REFUSED, True), refused.stderr
        copy = replace(deployment, dsn=dsn, prefix="restored", daemons=[])
        copy.init(config=copy.write_config("restored", slot=f"restored_{name[-8:]}"))
        daemon = copy.daemon("restored-daemon", copy.folder / "restored.toml", "--role", "consumer").start()
        try:
            copy.sql("INSERT INTO orders (shop, amount) VALUES ('only here', 1)")
            copy.assert_exact()
        finally:
            daemon.kill()
    deployment.assert_exact()


def test_rows_that_are_loaded_from_a_dump_are_counted_once(
    postgres18: PostgresServer, deployment18: Deployment
) -> None:
    """Those of the outbox not at all, those of a counted table also where the load switches its triggers off."""
    deployment = deployment18
    deployment.config = deployment.write_config("c", postgres="inspection_seconds = 0.5")
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    deployment.sql("INSERT INTO orders (shop, amount) SELECT 'shop ' || i, i FROM generate_series(1, 20) AS i")
    load = postgres18.folder / "rows.sql"

    def reload(table: str, *options: str) -> None:
        words = ["-d", deployment.dsn, "--data-only", "-f", load, *options]
        run_program(postgres18, "pg_dump", *words, "--table", table)
        if not table.startswith("cdc_counter."):
            deployment.sql(f"TRUNCATE {table}")
        run_program(postgres18, "psql", "-d", deployment.dsn, "-v", "ON_ERROR_STOP=1", "-f", load)
        load.unlink()

    reload("cdc_counter.outbox*")
    wait_said(daemon, "copied back or restored, and not counted again")
    deployment.assert_exact()
    reload("orders")
    deployment.assert_exact()
    assert "captured whole again" not in daemon.log_text()
    reload("orders", "--disable-triggers")
    wait_said(daemon, "captured whole again", deadline=60)
    deployment.assert_exact()
