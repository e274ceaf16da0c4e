"""What administrators do to a server under a consumer: upgrade it, change a password, use up or forbid its slots."""

from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from cdc_counter.embedded import PostgresServer
from cdc_counter.embedded.binaries import runnable_bin_dir, server_user
from cdc_counter.errors import NotReadyError
from tests.fault.deployment import SCHEMA, Deployment, Traffic, command, own_deployment, wait_said
from tests.fault.losses import drop_slot, end_walsender, wait_new_epoch
from tests.fault.test_start_decisions import NOT_READY, REFUSED, ends_with
from tests.rig.eventually import eventually_sync
from tests.rig.programs import run_program
from tests.rig.servers import postgres15_bin_dir

pytestmark = pytest.mark.programme


def test_a_password_that_is_changed_under_a_consumer_is_waited_for_and_never_logged(
    redis_url: str, tmp_path: Path
) -> None:
    server = PostgresServer(fsync=False)
    with own_deployment(server, redis_url, tmp_path) as deployment:
        deployment.sql("CREATE ROLE consumer SUPERUSER LOGIN PASSWORD 'first-secret'")
        rules = server.data_dir / "pg_hba.conf"
        rules.write_text("host all consumer 127.0.0.1/32 scram-sha-256\n" + rules.read_text(encoding="utf-8"))
        deployment.sql("SELECT pg_reload_conf()")
        deployment.config = deployment.write_config(
            "secret", dsn=deployment.dsn.replace("postgres@", "consumer:first-secret@")
        )
        deployment.init()
        epoch = deployment.epoch()
        daemon = deployment.daemon().start().wait_ready()
        with Traffic(deployment.dsn) as traffic:
            deployment.sql("ALTER ROLE consumer PASSWORD 'second-secret'")
            # Whoever is connected stays connected.
            traffic.wait_for_more()
            assert daemon.log_text().count("streaming slot") == 1
            end_walsender(deployment)
            wait_said(daemon, "password authentication failed", 3)
            deployment.sql("ALTER ROLE consumer PASSWORD 'first-secret'")
            wait_said(daemon, "streaming slot", 2)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert deployment.epoch() == epoch
        assert "secret@" not in daemon.log_text()
        assert "first-secret" not in daemon.log_text()
        daemon.kill()


def test_a_server_whose_wal_level_is_lowered_does_not_start_and_nothing_is_lost(redis_url: str, tmp_path: Path) -> None:
    server = PostgresServer(fsync=False)
    with own_deployment(server, redis_url, tmp_path) as deployment:
        deployment.init()
        epoch = deployment.epoch()
        daemon = deployment.daemon().start().wait_ready()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
            server.stop()
            server.settings["wal_level"] = "replica"
            with pytest.raises(NotReadyError):
                server.start()
            server.settings["wal_level"] = "logical"
            server.start()
            wait_said(daemon, "streaming slot", 2)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert deployment.epoch() == epoch
        # Without a slot the server does start; then there is nothing to stream from, and it is said.
        assert daemon.terminate() == 0
        drop_slot(deployment)
        server.stop()
        server.settings["wal_level"] = "replica"
        server.start()
        daemon.start()
        wait_said(daemon, "wal_level")
        server.stop()
        server.settings["wal_level"] = "logical"
        server.start()
        wait_new_epoch(deployment, epoch)
        deployment.assert_exact()
        daemon.kill()


def test_slots_that_are_used_up_are_named_and_the_first_free_one_is_taken(redis_url: str, tmp_path: Path) -> None:
    server = PostgresServer(fsync=False, settings={"max_replication_slots": "1"})
    with own_deployment(server, redis_url, tmp_path) as deployment:
        deployment.sql("SELECT pg_create_physical_replication_slot('somebodys')")
        refused = command("init", config=deployment.config)
        assert (refused.returncode, "max_replication_slots" in refused.stdout + refused.stderr) == (NOT_READY, True)
        deployment.sql("SELECT pg_drop_replication_slot('somebodys')")
        deployment.init()
        epoch = deployment.epoch()
        daemon = deployment.daemon()
        drop_slot(deployment)
        deployment.sql("SELECT pg_create_physical_replication_slot('somebodys')")
        daemon.start()
        wait_said(daemon, "all replication slots are in use", 2)
        assert daemon.log_text().count("streaming slot") == 0
        deployment.sql("SELECT pg_drop_replication_slot('somebodys')")
        wait_new_epoch(deployment, epoch)
        deployment.assert_exact()
        daemon.kill()


def test_walsenders_that_are_used_up_are_waited_for(redis_url: str, tmp_path: Path) -> None:
    server = PostgresServer(fsync=False, settings={"max_wal_senders": "1"})
    with own_deployment(server, redis_url, tmp_path) as deployment:
        deployment.init()
        epoch = deployment.epoch()
        daemon = deployment.daemon()
        with Traffic(deployment.dsn) as traffic:
            with psycopg.connect(server.dsn(), replication="true", autocommit=True):
                daemon.start()
                wait_said(daemon, "max_wal_senders", 3)
                traffic.wait_for_more()
            wait_said(daemon, "streaming slot")
            traffic.wait_for_more()
        deployment.assert_exact()
        assert deployment.epoch() == epoch
        daemon.kill()


def test_a_database_that_was_dropped_takes_the_slot_along_and_its_successor_is_another(
    redis_url: str, tmp_path: Path
) -> None:
    """The server drops the slot of a dropped database without a word; the name leads to another database then."""
    server = PostgresServer(fsync=False)
    with own_deployment(server, redis_url, tmp_path) as deployment:
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        name = deployment.dsn.rpartition("/")[2]
        with psycopg.connect(server.dsn(), autocommit=True) as administrator:
            # Not under a consumer: its slot is active.
            with pytest.raises(psycopg.errors.ObjectInUse):
                administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            assert daemon.running
            daemon.kill()
            active = b"SELECT slot_name FROM pg_replication_slots WHERE active"
            eventually_sync(lambda: not administrator.execute(active).fetchall(), "its session has ended")
            administrator.execute(f"DROP DATABASE {name}".encode())
            assert administrator.execute("SELECT slot_name FROM pg_replication_slots").fetchall() == []
            tallies = deployment.record("open_by_channel")
            daemon.start()
            wait_said(daemon, "does not exist", 2)
            daemon.kill()
            administrator.execute(f"CREATE DATABASE {name}".encode())
        deployment.sql(SCHEMA)
        ends_with(daemon, REFUSED, "counted in the database with oid")
        assert deployment.record("open_by_channel") == tallies
        deployment.init("--reseed")
        daemon.start().wait_ready()
        deployment.assert_exact()
        daemon.kill()


@pytest.mark.postgres15
def test_a_server_that_was_upgraded_is_another_one_until_it_is_said_to_take_the_old_ones_place(
    redis_url: str, tmp_path: Path
) -> None:
    """pg_upgrade gives a new system identifier and other LSNs, and takes no slot of version 15 along."""
    with ExitStack() as stack:
        old, new = PostgresServer(bin_dir=postgres15_bin_dir(), fsync=False), PostgresServer(fsync=False)
        for server in (old, new):
            stack.callback(server.close)
        old.start()
        with psycopg.connect(old.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE app")
        deployment = stack.enter_context(Deployment(old.dsn("app"), redis_url, tmp_path))
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        assert daemon.terminate() == 0
        old.stop()
        upgrade(old, new)
        new.start()
        deployment.dsn = new.dsn("app")
        config = deployment.write_config("upgraded")
        upgraded = deployment.daemon("upgraded", config)
        ends_with(upgraded, REFUSED, "counted on system")
        deployment.init("--reseed", config=config)
        upgraded.start().wait_ready()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        upgraded.kill()


def upgrade(old: PostgresServer, new: PostgresServer) -> None:
    """Give the data of one, as it is stopped, to the other."""
    words = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    # As before 18, so that the old files fit.
    run_program(new, "initdb", "-D", new.data_dir, *words, "--no-data-checksums")
    programs = runnable_bin_dir(new.bin_dir, server_user(), new.folder)
    run_program(
        new, "pg_upgrade", "--old-bindir", old.bin_dir, "--new-bindir", programs, "--old-datadir", old.data_dir,
        "--new-datadir", new.data_dir, "--username", "postgres", "--socketdir", new.folder, "--no-sync",
        "--old-options", "-c wal_level=logical",
    )  # fmt: skip
