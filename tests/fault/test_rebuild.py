"""Redis or the slot is lost under a running consumer and under writes: it counts everything again, without an end.

Nobody's transaction is waited for where the slot is sound, and no number is shown as good that is not.
"""

import random
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import redis

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment, Traffic, fetch, wait_said
from tests.fault.link import fault_link
from tests.fault.losses import (
    advance_slot,
    create_again,
    drop_publication,
    drop_slot,
    end_walsender,
    flush,
    undecodable_slot,
    wait_new_epoch,
)
from tests.integration.gateway.client import Client
from tests.rig.daemon import Daemon
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually, eventually_sync
from tests.rig.servers import postgres15_bin_dir
from tests.rig.tallies import all_tallies, end_of_wal, watermark


def started(deployment: Deployment) -> Daemon:
    deployment.init()
    return deployment.daemon().start().wait_ready()


def wait_live(deployment: Deployment) -> None:
    eventually_sync(lambda: set(deployment.states().values()) == {"live"}, "every counter is live", deadline=30)


def wait_not_ready(daemon: Daemon, *words: str) -> None:
    def named() -> bool:
        status, body = fetch(daemon, "/readyz")
        return status == 503 and all(word in body["reason"] for word in words)

    eventually_sync(named, f"readiness says {words}")


def rebuilds(daemon: Daemon) -> dict[str, float]:
    """Return the metric, by reason."""
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.partition("cdc_counter_rebuilds_total{reason=")[2] for line in lines]
    return {reason.strip('"'): float(value) for reason, _, value in (line.partition("} ") for line in found if line)}


def held_open(deployment: Deployment) -> psycopg.Connection:
    """Open a transaction that has written and does not end."""
    connection = psycopg.connect(deployment.dsn)
    connection.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 1), (2, 2)")
    return connection


@pytest.mark.programme15
def test_what_redis_lost_is_counted_again_while_a_transaction_stays_open(deployment: Deployment) -> None:
    """An epoch begins where the slot stands; what the open transaction wrote is counted when it commits."""
    daemon = started(deployment)
    gateway = deployment.daemon("gateway", None, "--role", "gateway").start().wait_ready()
    with closing(held_open(deployment)) as held, Traffic(deployment.dsn) as traffic:
        for _ in range(2):
            traffic.wait_for_more()
            old = deployment.epoch()
            flush(deployment)
            wait_new_epoch(deployment, old)
        wait_live(deployment)
        assert "waiting for" not in daemon.log_text()
        traffic.wait_for_more()
        held.commit()
    deployment.assert_exact()
    assert daemon.running
    assert "every counter is rebuilt (tallies gone)" in daemon.log_text()
    assert rebuilds(daemon) == {"tallies gone": 2}
    assert fetch(gateway, "/v1/counters/conversations")[1]["state"] == "live"


def test_a_slot_or_a_publication_that_is_gone_is_made_again(deployment: Deployment) -> None:
    daemon = started(deployment)
    with Traffic(deployment.dsn) as traffic:
        for number, fault in enumerate((drop_slot, create_again, drop_publication), start=1):
            traffic.wait_for_more()
            old = deployment.epoch()
            fault(deployment)
            wait_new_epoch(deployment, old)
            daemon.wait_ready()
            wait_said(daemon, "counter visits_by_page is live", number)
        traffic.wait_for_more()
    deployment.assert_exact()
    assert sum(rebuilds(daemon).values()) >= 3


def test_a_new_slot_that_the_server_can_not_decode_is_made_again(deployment: Deployment) -> None:
    daemon = started(deployment)
    with undecodable_slot(deployment):
        drop_slot(deployment)
    eventually_sync(lambda: rebuilds(daemon).get("slot undecodable") == 1, "another slot is made", deadline=60)
    wait_live(deployment)
    deployment.assert_exact()
    assert "can't be decoded" in daemon.log_text()


def test_init_makes_a_slot_again_that_the_server_can_not_decode(deployment: Deployment) -> None:
    with ThreadPoolExecutor() as beside:
        with undecodable_slot(deployment):
            init = beside.submit(deployment.init)
        said = init.result().stderr
    assert set(deployment.states().values()) == {"live"}
    assert "can't be decoded" in said
    deployment.daemon().start().wait_ready()
    deployment.assert_exact()


def test_a_slot_that_is_moved_under_a_sleeping_consumer_is_a_gap(deployment18: Deployment) -> None:
    deployment = deployment18
    daemon = started(deployment)
    old = deployment.epoch()
    daemon.freeze()
    end_walsender(deployment)
    advance_slot(deployment)
    daemon.thaw()
    wait_new_epoch(deployment, old)
    deployment.assert_exact()
    assert rebuilds(daemon) == {"gap": 1}


def test_a_dump_that_redis_comes_back_with_is_a_gap(database18: str, tmp_path: Path) -> None:
    """Between the dump and the slot are commits that nobody will send again."""
    with (
        RedisServer(settings={"appendonly": "no"}) as server,
        Deployment(database18, server.url, tmp_path) as deployment,
    ):
        daemon = started(deployment)
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
            with redis.Redis.from_url(server.url) as client:
                client.save()
            before, old = deployment.slot_position(), deployment.epoch()
            traffic.wait_for_more()
            eventually_sync(lambda: deployment.slot_position() > before, "the slot has moved on")
            server.kill()
            server.start()
            wait_new_epoch(deployment, old)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert rebuilds(daemon) == {"gap": 1}
        assert "Redis lost what it had applied" in daemon.log_text()


def test_a_replica_that_lagged_when_it_was_promoted_is_a_gap(database18: str, tmp_path: Path) -> None:
    with RedisServer() as primary, fault_link(primary.port) as copying, fault_link(primary.port) as link:
        follow = {"replicaof": f"127.0.0.1 {copying.port}", "repl-diskless-sync-delay": "0"}
        url = f"redis://127.0.0.1:{link.port}/0"
        with RedisServer(settings=follow) as replica, Deployment(database18, url, tmp_path) as deployment:
            daemon = started(deployment)
            with Traffic(deployment.dsn) as traffic, redis.Redis.from_url(replica.url) as client:
                eventually_sync(lambda: client.exists("cdc:meta"), "the replica follows")
                traffic.wait_for_more()
                copying.hold()
                before, old = deployment.slot_position(), deployment.epoch()
                traffic.wait_for_more()
                eventually_sync(lambda: deployment.slot_position() > before, "the slot has moved on")
                client.execute_command("REPLICAOF", "NO", "ONE")
                link.switch(replica.port)
                wait_new_epoch(deployment, old)
                traffic.wait_for_more()
            deployment.assert_exact()
            assert rebuilds(daemon) == {"gap": 1}


@pytest.mark.programme
def test_a_slot_that_the_server_invalidated_is_made_again(
    redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The consumer was away for too much WAL."""
    settings = {"max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    for bin_dir in dict.fromkeys((None, postgres15_bin_dir())):
        with (
            PostgresServer(bin_dir=bin_dir, fsync=False, settings=settings) as server,
            fresh_database(server) as dsn,
            Deployment(dsn, redis_url, tmp_path) as deployment,
        ):
            daemon = started(deployment)
            with Traffic(deployment.dsn) as traffic:
                traffic.wait_for_more()
                old = deployment.epoch()
                daemon.freeze()
                status = "SELECT wal_status FROM pg_replication_slots"

                def is_lost(deployment: Deployment = deployment, status: str = status) -> bool:
                    deployment.sql("SELECT pg_logical_emit_message(false, 'fill', 'x'), pg_switch_wal()")
                    deployment.sql("CHECKPOINT")
                    return deployment.sql(status) == [("lost",)]

                eventually_sync(is_lost, "the slot is invalidated", deadline=60)
                daemon.thaw()
                wait_new_epoch(deployment, old)
                traffic.wait_for_more()
            deployment.assert_exact()
            assert rebuilds(daemon) == {"slot lost": 1}
            daemon.kill()
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()


def test_a_database_that_was_restored_is_counted_again(redis_url: str, tmp_path: Path) -> None:
    """The tallies hold commits that never happened; the slot of the copy is of no use to them."""
    with (
        PostgresServer(fsync=False) as server,
        fresh_database(server) as dsn,
        Deployment(dsn, redis_url, tmp_path) as deployment,
    ):
        daemon = started(deployment)
        server.stop()
        copy = server.folder / "copy"
        # With owners and rights: the server may run as somebody else.
        subprocess.run(["/bin/cp", "-a", server.data_dir, copy], check=True)
        server.start()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more(200)
        goal = end_of_wal(deployment.dsn)
        eventually_sync(lambda: watermark(redis_url) >= goal, "everything is applied")
        old = deployment.epoch()
        server.kill()
        shutil.rmtree(server.data_dir)
        copy.rename(server.data_dir)
        server.start()
        wait_new_epoch(deployment, old)
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        assert rebuilds(daemon) == {"other history": 1}
        assert "the database was restored" in daemon.log_text()


def test_damaged_keys_of_redis_are_replaced(deployment18: Deployment) -> None:
    deployment = deployment18
    daemon = started(deployment)
    with Traffic(deployment.dsn) as traffic, redis.Redis.from_url(deployment.redis_url) as client:
        damages: list[Callable[[], object]] = [
            lambda: client.hset("cdc:meta", "watermark", "junk"),
            lambda: client.hdel("cdc:meta", "epoch"),
            lambda: client.hset("cdc:meta", mapping={"epoch": "foreign", "timeline": "x"}),
            lambda: client.delete("cdc:meta"),
            lambda: client.set("cdc:meta", "x"),
            lambda: client.hset("cdc:meta", "sequence", "x"),
            lambda: (client.set("cdc:counters", "x"), end_walsender(deployment)),  # type: ignore[func-returns-value]
        ]
        for number, damage in enumerate(damages, start=1):
            traffic.wait_for_more()
            old = deployment.epoch()
            damage()
            wait_said(daemon, "counter visits_by_page is live", number)
            assert deployment.epoch() not in {"", old}
    deployment.assert_exact()
    assert set(rebuilds(daemon)) <= {"tallies damaged", "tallies gone", "gap"}


@pytest.mark.programme
def test_readers_know_while_a_new_slot_waits_for_somebody(deployment: Deployment) -> None:
    """They see the last values, marked; the wait can be ended at any moment, and begins again where it was left."""
    daemon = started(deployment)
    last = fetch(daemon, "/v1/counters/conversations")[1]
    with closing(held_open(deployment)) as held:
        old = deployment.epoch()
        drop_slot(deployment)
        for end in (daemon.kill, daemon.terminate, None):
            wait_said(daemon, f"waiting for pid {held.info.backend_pid}")
            reading = fetch(daemon, "/v1/counters/conversations")[1]
            assert (reading["state"], reading["values"]) == ("rebuilding", last["values"])
            wait_not_ready(daemon, "the consumer is rebuilding", f"pid {held.info.backend_pid}")
            # Nobody waits for the slot.
            deployment.sql("INSERT INTO conversations (account_id) VALUES (3)")
            if end is not None:
                assert not end()
                daemon.log.unlink()
                daemon.start()
        assert deployment.epoch() == old
        held.commit()
    wait_new_epoch(deployment, old)
    deployment.assert_exact()


@pytest.mark.programme
def test_a_rebuild_that_is_killed_at_any_moment_is_taken_up_again(deployment18: Deployment) -> None:
    deployment = deployment18
    chance = random.Random(18)
    deployment.init()
    daemon = deployment.daemon()
    with Traffic(deployment.dsn) as traffic:
        for _ in range(8):
            daemon.start()
            wait_said(daemon, "streaming slot", daemon.log_text().count("streaming slot") + 1)
            for fault in chance.choice([[flush], [drop_slot], [flush, drop_slot], [create_again]]):
                fault(deployment)
            # As long as a rebuild takes, or a part of it.
            time.sleep(chance.random() * 0.8)
            daemon.kill()
            if not deployment.epoch() and deployment.walsender() is None and not slots(deployment):
                # Redis and slot were lost, and who knew of it is dead: only `init` may begin.
                deployment.init()
        traffic.wait_for_more()
        daemon.start()
    deployment.assert_exact()


def slots(deployment: Deployment) -> list[tuple[str]]:
    return deployment.sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")


@pytest.mark.programme
def test_of_two_consumers_one_rebuilds_and_the_other_follows(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    daemons = [deployment.daemon(name) for name in ("one", "two")]
    for daemon in daemons:
        daemon.start()
    eventually_sync(deployment.walsender, "one of them streams")
    with Traffic(deployment.dsn) as traffic:
        for faults in ([flush], [drop_slot], [flush, drop_slot], [flush, create_again]):
            traffic.wait_for_more()
            old = deployment.epoch()
            for fault in faults:
                fault(deployment)
            wait_new_epoch(deployment, old)
            wait_live(deployment)
    deployment.assert_exact()
    assert [daemon.running for daemon in daemons] == [True, True]


def test_a_commit_that_is_confirmed_and_not_visible_yet_is_not_missed(redis_url: str, tmp_path: Path) -> None:
    """It waits for a standby: it was streamed and applied, and no snapshot sees it. Then Redis loses everything."""
    with (
        PostgresServer(fsync=False) as server,
        fresh_database(server) as dsn,
        Deployment(f"{dsn}?options=-c%20synchronous_commit%3Dlocal", redis_url, tmp_path) as deployment,
    ):
        daemon = started(deployment)
        deployment.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        deployment.sql("SELECT pg_reload_conf()")
        before = all_tallies(redis_url)["conversations", "-", "-"]

        def commit() -> None:
            with psycopg.connect(dsn, autocommit=True) as waiting:
                waiting.execute("SET synchronous_commit = on")
                waiting.execute("INSERT INTO conversations (account_id) VALUES (1)")

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            eventually_sync(
                lambda: all_tallies(redis_url)["conversations", "-", "-"] == before + 1, "the commit is applied"
            )
            assert deployment.sql("SELECT count(*) FROM conversations") == [(before,)]
            goal = end_of_wal(deployment.dsn)
            eventually_sync(lambda: watermark(redis_url) >= goal, "the tallies are beyond it")
            eventually_sync(lambda: deployment.slot_position() >= goal, "it is confirmed")
            old = deployment.epoch()
            flush(deployment)
            wait_new_epoch(deployment, old)
            wait_said(daemon, "is not in the snapshot")
            assert deployment.states()["conversations"] == "seeding"
        finally:
            deployment.sql("ALTER SYSTEM RESET synchronous_standby_names")
            deployment.sql("SELECT pg_reload_conf()")
            thread.join(30)
        deployment.assert_exact()


async def test_an_open_page_keeps_its_numbers_marked_until_the_exact_ones_come(deployment18: Deployment) -> None:
    deployment = deployment18
    daemon = started(deployment)
    client = Client()
    await client.connect(f"http://127.0.0.1:{daemon.port}")
    snapshot = await client.subscribe("conversations")
    with psycopg.connect(deployment.dsn) as held:
        # The recount waits for this lock, so that there is something to be seen meanwhile.
        held.execute("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
        held.execute("INSERT INTO conversations (account_id) VALUES (1)")
        flush(deployment)
        ((event, body),) = await client.received(1)
        assert (event, body["state"], body["values"]) == ("reset", "rebuilding", snapshot["values"])
        assert fetch(daemon, "/v1/counters/conversations")[1]["state"] == "seeding"
        held.commit()

    async def last() -> dict[str, object]:
        return client.events[-1][1]

    exact = {"-": snapshot["values"]["-"] + 1}
    body = await eventually(last, "the exact number", until=lambda body: body.get("state") == "live")
    assert body["values"] == exact
    assert all(event == "reset" and found["values"] in (exact, snapshot["values"]) for event, found in client.events)
    await client.close()
    deployment.assert_exact()
