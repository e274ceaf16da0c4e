"""What a consumer does when the two servers do not fit together: it says so, and never shows a wrong number as good."""

import psycopg
import pytest
import redis

from cdc_counter.embedded import PostgresServer
from tests.fault.deployment import COUNTERS, HONEST, SCHEMA, Deployment, Traffic, command, wait_for_end, wait_said
from tests.fault.losses import advance_slot, create_again, drop_publication, drop_slot, flush, wait_new_epoch
from tests.rig.daemon import Daemon
from tests.rig.databases import fresh_database

NOT_READY, REFUSED, RESEED = 3, 5, 6


def ends_with(daemon: Daemon, code: int, words: str) -> None:
    """Start it; it must end by itself with this code, saying this."""
    before = len(daemon.log_text())
    daemon.start()
    ended, said = wait_for_end(daemon), daemon.log_text()[before:]
    assert (ended, words in said) == (code, True), f"wanted {code} and {words!r}, got {ended}: {said}"


@pytest.mark.programme
def test_what_does_not_fit_is_noticed_at_the_start(deployment18: Deployment) -> None:
    """With `stream.rebuild` off, what was lost ends it; what belongs elsewhere always does."""
    deployment = deployment18
    config = deployment.write_config("off", extra="[stream]\nrebuild = false")
    daemon = deployment.daemon("daemon", config)
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
        advance_slot(deployment)
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
        flush(deployment)
        assert wait_for_end(daemon) == RESEED
        deployment.init("--reseed")
        daemon.start().wait_ready()
    deployment.assert_exact()


@pytest.mark.programme
def test_whatever_was_lost_while_nothing_ran_is_counted_again_at_the_start(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon()
    with Traffic(deployment.dsn) as traffic:
        for number, fault in enumerate((flush, advance_slot, drop_slot, create_again, drop_publication), start=1):
            old = deployment.epoch()
            fault(deployment)
            traffic.wait_for_more()
            daemon.start().wait_ready()
            wait_new_epoch(deployment, old)
            wait_said(daemon, "counter visits_by_page is live", number)
            assert daemon.terminate() == 0, fault.__name__
    daemon.start()
    deployment.assert_exact()
    assert daemon.terminate() == 0
    # Nothing is left to tell that anything was installed here.
    flush(deployment)
    drop_slot(deployment)
    ends_with(daemon, NOT_READY, "nothing is installed")


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


@pytest.mark.programme
def test_another_slot_under_the_same_prefix_is_refused_and_changes_nothing(deployment18: Deployment) -> None:
    """Two consumers with slots of their own would take every watermark from each other."""
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    deployment.daemon().start().wait_ready()
    config = deployment.write_config("other", slot="other")
    ends_with(deployment.daemon("elsewhere", config), REFUSED, "from slot 'cdc_counter', not 'other'")
    deployment.sql("SELECT pg_create_logical_replication_slot('other', 'pgoutput')")
    ends_with(deployment.daemon("elsewhere", config), REFUSED, "from slot 'cdc_counter', not 'other'")
    tried = command("init", config=config)
    assert (tried.returncode, "redis.prefix" in tried.stderr) == (REFUSED, True), tried.stdout + tried.stderr
    deployment.assert_exact()
    assert deployment.epoch() == epoch


def test_a_wrong_prefix_waits_as_long_as_the_right_consumer_streams(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    config = deployment.write_config("wrong")
    config.write_text(config.read_text(encoding="utf-8").replace('prefix = "cdc"', 'prefix = "wrong"'))
    wrong = deployment.daemon("wrong-prefix", config, "--role", "consumer").start()
    wait_said(wrong, "standing by")
    assert wrong.terminate() == 0
    with redis.Redis.from_url(deployment.redis_url) as client:
        assert set(client.scan_iter(match="wrong:*", count=1000)) <= {b"wrong:status"}
    deployment.assert_exact()
    assert daemon.log_text().count("streaming slot") == 1
