"""What a consumer does when the two servers do not fit together: it says so, and never shows a wrong number as good."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import redis

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import COUNTERS, HONEST, SCHEMA, Deployment, Traffic, fetch, wait_for_end
from tests.rig.daemon import Daemon, command
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync

NOT_READY, REFUSED, RESEED = 3, 5, 6

Fault = Callable[[Deployment], None]


def flush(deployment: Deployment) -> None:
    with redis.Redis.from_url(deployment.redis_url) as client:
        client.flushall()


def end_walsender(deployment: Deployment) -> None:
    deployment.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'cdc_counter'")


def drop_slot(deployment: Deployment) -> None:
    """Drop the slot, also under a consumer that streams it."""

    def dropped() -> bool:
        end_walsender(deployment)
        with suppress(psycopg.errors.ObjectInUse):
            deployment.sql(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'cdc_counter'"
            )
            return True
        return False

    eventually_sync(dropped, "the slot is dropped")


def create_again(deployment: Deployment) -> None:
    drop_slot(deployment)
    deployment.sql("SELECT pg_create_logical_replication_slot('cdc_counter', 'pgoutput')")


def drop_publication(deployment: Deployment) -> None:
    deployment.sql("DROP PUBLICATION cdc_counter")
    # A walsender that has read the publication goes on with what it remembers.
    end_walsender(deployment)


def ends_with(daemon: Daemon, code: int, words: str) -> None:
    """Start it; it must end by itself with this code, saying this."""
    before = len(daemon.log_text())
    daemon.start()
    ended, said = wait_for_end(daemon), daemon.log_text()[before:]
    assert (ended, words in said) == (code, True), f"wanted {code} and {words!r}, got {ended}: {said}"


def test_gaps_while_streaming_end_the_consumer_and_a_reseed_is_exact_under_writes(
    deployment: Deployment, postgres: PostgresServer
) -> None:
    # PostgreSQL 15 answers a missing publication with an error, 18 with a warning; for the rest they are alike.
    faults = (flush, create_again, drop_publication) if postgres.version[0] > 15 else (drop_publication,)
    deployment.init()
    gateway = deployment.daemon("gateway", None, "--role", "gateway").start()
    daemon = deployment.daemon().start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        for fault in faults:
            traffic.wait_for_more()
            epoch = deployment.epoch()
            fault(deployment)
            assert wait_for_end(daemon) == RESEED, f"{fault.__name__}: {daemon.log_text()[-2000:]}"
            assert "init --reseed" in daemon.log_text()
            status, body = fetch(gateway, "/v1/counters/conversations")
            assert (status, "values" in body) == (503, False) if fault is flush else (200, True), fault.__name__
            assert fetch(gateway, "/readyz")[0] == 503
            deployment.init("--reseed")
            assert deployment.epoch() not in {"", epoch}
            daemon.start().wait_ready()
    deployment.assert_exact()
    assert fetch(gateway, "/v1/counters/conversations")[1]["state"] == "live"


def test_what_does_not_fit_is_noticed_at_the_start(deployment18: Deployment) -> None:
    deployment = deployment18
    daemon = deployment.daemon()
    ends_with(daemon, NOT_READY, "nothing is installed")
    deployment.init()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        assert daemon.start().wait_ready().terminate() == 0
        epoch = deployment.epoch()
        traffic.wait_for_more()

        deployment.sql("ALTER PUBLICATION cdc_counter SET (publish = 'insert, update')")
        ends_with(daemon, REFUSED, "publishes more than inserts")
        deployment.sql("ALTER PUBLICATION cdc_counter SET (publish = 'insert')")
        deployment.sql("ALTER PUBLICATION cdc_counter ADD TABLE conversations")
        ends_with(daemon, REFUSED, "publishes other tables too")
        drop_publication(deployment)
        ends_with(daemon, RESEED, "publication does not exist")
        deployment.sql("SELECT pg_replication_slot_advance('cdc_counter', pg_current_wal_flush_lsn())")
        ends_with(daemon, RESEED, "the tallies only at")
        drop_slot(deployment)
        ends_with(daemon, RESEED, "does not exist any more")
        create_again(deployment)
        ends_with(daemon, RESEED, "the tallies only at")
        flush(deployment)
        ends_with(daemon, RESEED, "Redis has no tallies under this prefix")

        assert daemon.log_text().count("init --reseed") >= 5
        deployment.init("--reseed")
        assert deployment.epoch() not in {"", epoch}
        daemon.start().wait_ready()
    deployment.assert_exact()


def test_a_slot_that_is_moved_between_the_question_and_the_start_is_a_gap(deployment18: Deployment) -> None:
    """A consumer that reconnects by itself finds it just as one that starts."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    daemon.freeze()
    end_walsender(deployment)
    deployment.sql("INSERT INTO conversations (account_id) VALUES (1)")

    def advanced() -> bool:
        with suppress(psycopg.errors.ObjectInUse):
            deployment.sql("SELECT pg_replication_slot_advance('cdc_counter', pg_current_wal_flush_lsn())")
            return True
        return False

    eventually_sync(advanced, "the slot is moved by hand")
    daemon.thaw()
    assert wait_for_end(daemon) == RESEED
    assert "the tallies only at" in daemon.log_text()


def test_another_database_under_the_same_prefix_is_refused_and_changes_nothing(
    deployment18: Deployment, postgres18: PostgresServer
) -> None:
    deployment = deployment18
    deployment.init()
    counters = [deployment.record(name) for name in HONEST]
    with fresh_database(postgres18) as other_dsn:
        with psycopg.connect(other_dsn, autocommit=True) as connection:
            connection.execute(SCHEMA)
        # Fewer counters: what is not declared there must not be removed here.
        few = COUNTERS[: COUNTERS.index("[[counter]]", 20)]
        config = deployment.write_config("other", dsn=other_dsn, slot="other", counters=few)
        ends_with(deployment.daemon("elsewhere", config), REFUSED, "prefix")
        tried = command("init", config=config)
        assert (tried.returncode, "prefix" in tried.stderr) == (REFUSED, True), tried.stdout + tried.stderr
    assert [deployment.record(name) for name in HONEST] == counters
    deployment.daemon().start().wait_ready()
    deployment.assert_exact()


def test_redis_that_comes_back_older_is_a_gap(database18: str, tmp_path: Path) -> None:
    """Between the old copy and the slot are commits that nobody will send again; the consumer runs all the while."""
    with RedisServer() as server, Deployment(database18, server.url, tmp_path) as deployment:
        deployment.init()
        server.stop()
        old = shutil.copytree(server.data_dir, tmp_path / "old")
        server.start()
        daemon = deployment.daemon().start().wait_ready()
        with Traffic(deployment.dsn) as traffic:
            before = deployment.slot_position()
            traffic.wait_for_more()
            eventually_sync(lambda: deployment.slot_position() > before, "the slot has moved on")
            server.stop()
            shutil.rmtree(server.data_dir)
            shutil.copytree(old, server.data_dir)
            server.start()
            assert wait_for_end(daemon) == RESEED
            assert "Redis lost what it had applied" in daemon.log_text()
            deployment.init("--reseed")
            daemon.start().wait_ready()
        deployment.assert_exact()
