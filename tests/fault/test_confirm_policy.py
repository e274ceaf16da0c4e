"""What is confirmed to the slot is as durable in Redis as the policy asks; what is shown does not wait for it."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cdc_counter.core.lsn import Lsn
from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment, Traffic, command, wait_for_end, wait_said
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.redis_pair import RedisPair, redis_pair
from tests.rig.servers import newer_redis
from tests.rig.tallies import end_of_wal, wait_applied, watermark

REPLICATED = 'confirm = "replicated"'


@pytest.fixture
def pair() -> Iterator[RedisPair]:
    with redis_pair() as made:
        yield made


@pytest.fixture
def deployment(database18: str, pair: RedisPair, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(database18, pair.url, tmp_path) as made:
        made.config = made.write_config("c", redis=REPLICATED)
        yield made


def started(deployment: Deployment) -> Daemon:
    deployment.init()
    return deployment.daemon().start().wait_ready(60)


def wait_confirmed(deployment: Deployment) -> None:
    """Wait until every commit so far is confirmed."""
    goal = end_of_wal(deployment.dsn)
    eventually_sync(lambda: deployment.slot_position() >= goal, f"the slot stands at {goal}", deadline=60)


def unconfirmed_seconds(daemon: Daemon) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("cdc_counter_unconfirmed_seconds ")))


def held_back(deployment: Deployment, pair: RedisPair, daemon: Daemon, traffic: Traffic) -> Lsn:
    """Hold what is copied; returns where the slot then stays, while numbers go on."""
    traffic.wait_for_more()
    pair.copying.hold()
    wait_said(daemon, "nothing is confirmed, so that PostgreSQL retains WAL: 0 of 1 replicas had it", deadline=60)
    stays = deployment.slot_position()
    traffic.wait_for_more()
    wait_applied(deployment.dsn, deployment.redis_url)
    assert watermark(deployment.redis_url) > stays
    return stays


def test_a_lagging_replica_that_is_promoted_costs_nothing_where_its_copy_is_waited_for(
    deployment: Deployment, pair: RedisPair
) -> None:
    daemon = started(deployment)
    epoch = deployment.epoch()
    with Traffic(deployment.dsn) as traffic:
        stays = held_back(deployment, pair, daemon, traffic)
        assert deployment.slot_position() == stays
        pair.fail_over()
        traffic.wait_for_more()
    deployment.assert_exact(deadline=60)
    assert deployment.epoch() == epoch, "nothing had to be counted again"


@pytest.mark.programme
def test_what_was_not_confirmed_before_a_restart_is_not_confirmed_by_it(
    deployment: Deployment, pair: RedisPair
) -> None:
    daemon = started(deployment)
    epoch = deployment.epoch()
    with Traffic(deployment.dsn) as traffic:
        stays = held_back(deployment, pair, daemon, traffic)
        daemon.kill()
        daemon.start()
        wait_said(
            daemon, "nothing is confirmed, so that PostgreSQL retains WAL: 0 of 1 replicas had it", 2, deadline=60
        )
        traffic.wait_for_more()
        wait_applied(deployment.dsn, deployment.redis_url)
        assert deployment.slot_position() == stays
        pair.fail_over()
        traffic.wait_for_more()
    deployment.assert_exact(deadline=60)
    assert deployment.epoch() == epoch


def test_a_policy_that_can_not_be_kept_is_said_and_mended_by_what_was_missing(
    deployment: Deployment, pair: RedisPair
) -> None:
    daemon = started(deployment)
    wait_confirmed(deployment)
    pair.replica.stop()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        wait_said(
            daemon,
            "nothing is confirmed, so that PostgreSQL retains WAL: 0 of 1 replicas had it within 2 s",
            deadline=60,
        )
        eventually_sync(lambda: unconfirmed_seconds(daemon) > 0, "the metric says so", deadline=60)

        def shown() -> bool:
            return "PostgreSQL retains the WAL: 0 of 1 replicas had it" in command(
                "status", config=deployment.config
            ).stdout.replace("\n", " ")

        eventually_sync(shown, "status says so", deadline=60)
    # The numbers are right all the while.
    deployment.assert_exact(deadline=60)
    pair.replica.start()
    wait_said(daemon, "confirmed again up to", deadline=60)
    wait_confirmed(deployment)
    eventually_sync(lambda: unconfirmed_seconds(daemon) == 0, "the metric says so", deadline=60)


def test_a_stop_waits_for_no_replica_that_does_not_come(deployment: Deployment, pair: RedisPair) -> None:
    daemon = started(deployment)
    pair.replica.stop()
    deployment.sql("INSERT INTO conversations (account_id) VALUES (1)")
    wait_said(daemon, "nothing is confirmed", deadline=60)
    assert daemon.terminate() == 0
    assert "Traceback" not in daemon.log_text()


def test_an_idle_database_is_confirmed_beside_a_busy_one(deployment: Deployment, postgres18: PostgresServer) -> None:
    started(deployment)
    with psycopg.connect(postgres18.dsn(), autocommit=True) as neighbour:
        neighbour.execute("SELECT pg_logical_emit_message(false, 'neighbour', repeat('x', 1000000))")
        wait_confirmed(deployment)


@pytest.mark.programme
def test_what_is_synced_to_disk_is_confirmed(database18: str, tmp_path: Path) -> None:
    with (
        RedisServer(program=newer_redis()) as server,
        Deployment(database18, server.url, tmp_path) as deployment,
    ):
        deployment.config = deployment.write_config("c", redis='confirm = "fsynced"\nconfirm_replicas = 0')
        daemon = started(deployment)
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            for _ in range(3):
                traffic.wait_for_more()
                wait_confirmed(deployment)
                server.kill()
                server.start()
            traffic.wait_for_more()
        deployment.assert_exact(deadline=60)
        assert deployment.epoch() == epoch
        assert daemon.running


def test_a_server_that_can_not_keep_the_policy_is_refused_by_init_and_by_run(deployment18: Deployment) -> None:
    deployment = deployment18
    asking = deployment.write_config("asking", redis='confirm = "fsynced"\nconfirm_replicas = 0')
    refused = command("init", config=asking)
    assert (refused.returncode, "does not know WAITAOF" in refused.stderr) == (3, True)
    deployment.init()
    daemon = deployment.daemon("asking daemon", asking).start()
    assert wait_for_end(daemon, 60) == 3
    assert "does not know WAITAOF" in daemon.log_text()
