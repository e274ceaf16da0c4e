"""What a server, its WAL and its connections do to a consumer: set back, slow, silent, full, left behind."""

import shutil
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest

from cdc_counter.core.lsn import Lsn
from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment, Traffic, own_deployment, wait_said
from tests.fault.link import fault_link
from tests.fault.losses import drop_slot, wait_new_epoch
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync
from tests.rig.tallies import wait_applied

pytestmark = pytest.mark.programme


def restart_lsn(deployment: Deployment) -> Lsn:
    ((lsn,),) = deployment.sql("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'cdc_counter'")
    return Lsn.parse(lsn)


def let_go(deployment: Deployment, lsn: Lsn) -> bool:
    """Say whether the slot keeps nothing before `lsn`, after a checkpoint: which is when a server looks."""
    deployment.sql("CHECKPOINT")
    return restart_lsn(deployment) >= lsn


def stands_after(deployment: Deployment, lsn: Lsn) -> bool:
    return deployment.slot_position() > lsn


def test_a_slot_that_was_set_back_by_a_crash_sends_again_and_nothing_counts_twice(
    redis_url: str, tmp_path: Path
) -> None:
    """The server writes a slot down at checkpoints only; here it wakes up with a file that is much older."""
    server = PostgresServer(fsync=False, settings={"wal_keep_size": "1GB"})
    with own_deployment(server, redis_url, tmp_path) as deployment:
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
            server.stop()
            kept, file = tmp_path / "slot", server.data_dir / "pg_replslot" / "cdc_counter"
            # With owners and rights: the server may run as somebody else.
            subprocess.run(["/bin/cp", "-a", file, kept], check=True)
            server.start()
            traffic.wait_for_more(100)
        wait_applied(deployment.dsn, redis_url)
        server.kill()
        shutil.rmtree(file)
        subprocess.run(["/bin/cp", "-a", kept, file], check=True)
        server.start()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        assert deployment.epoch() == epoch
        assert daemon.running


def test_a_huge_transaction_is_not_cut_off_while_redis_is_slow(
    deployment18: Deployment, redis_server: RedisServer
) -> None:
    """The server hears of us all the while, though nothing can be applied for much longer than its patience."""
    deployment = deployment18
    deployment.init()
    with fault_link(redis_server.port) as link:
        config = deployment.write_config(
            "slow", redis_url=f"redis://127.0.0.1:{link.port}/0", postgres="wal_sender_timeout_seconds = 4"
        )
        daemon = deployment.daemon("slow", config, "--role", "consumer").start()
        wait_said(daemon, "streaming slot")
        walsender = eventually_sync(deployment.walsender, "it streams")
        link.hold()
        deployment.sql(
            "DO $$BEGIN FOR i IN 1..20000 LOOP INSERT INTO orders (shop, amount) VALUES ('shop ' || i % 500, 1);"
            " END LOOP; END$$"
        )
        heard = "SELECT extract(epoch FROM reply_time)::float8 FROM pg_stat_replication WHERE pid = %s"
        since = eventually_sync(lambda: deployment.sql(heard, walsender)[0][0], "it has answered")

        def heard_for_long() -> bool:
            rows = deployment.sql(heard, walsender)
            assert rows, daemon.log_text()[-2000:]
            return bool(rows[0][0] > since + 12)

        eventually_sync(heard_for_long, "it answers for three times the server's patience", deadline=60)
        link.pass_on()
        deployment.assert_exact(deadline=60)
        assert deployment.walsender() == walsender
        daemon.kill()


def test_a_quiet_database_keeps_no_wal_of_a_busy_one(redis_url: str, tmp_path: Path) -> None:
    server = PostgresServer(fsync=False)
    with own_deployment(server, redis_url, tmp_path) as deployment:
        deployment.init()
        deployment.daemon().start().wait_ready()
        with fresh_database(server) as busy, psycopg.connect(busy, autocommit=True) as neighbour:
            neighbour.execute("CREATE TABLE noise (line text)")
            for _ in range(3):
                before = restart_lsn(deployment)
                neighbour.execute("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
                ((end,),) = neighbour.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
                eventually_sync(partial(let_go, deployment, Lsn.parse(end)), "it is let go", deadline=60)
                assert restart_lsn(deployment) > before
        deployment.assert_exact()


def test_an_open_transaction_holds_the_wal_and_nobody_else(deployment: Deployment) -> None:
    """What others commit is applied and confirmed; what it wrote is counted whole when it commits."""
    deployment.init()
    deployment.daemon().start().wait_ready()
    with closing(psycopg.connect(deployment.dsn)) as held:
        held.execute("INSERT INTO conversations (account_id, channel_id) SELECT 3, 3 FROM generate_series(1, 50)")
        ((begun,),) = deployment.sql("SELECT pg_current_wal_insert_lsn()::text")
        for _ in range(2):
            with Traffic(deployment.dsn) as traffic:
                traffic.wait_for_more()
            before = deployment.slot_position()
            deployment.sql("CHECKPOINT")
            deployment.assert_exact()
            eventually_sync(partial(stands_after, deployment, before), "the slot moves", deadline=60)
        assert restart_lsn(deployment) <= Lsn.parse(begun)
        held.commit()
    deployment.assert_exact()


def test_a_prepared_transaction_that_is_left_behind_stops_nothing_and_is_named(deployment: Deployment) -> None:
    """Streaming goes on beside it; only a new slot has to wait for it, and says for what."""
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    old = deployment.epoch()
    with psycopg.connect(deployment.dsn) as connection:
        connection.execute("INSERT INTO conversations (account_id, channel_id) SELECT 4, 4 FROM generate_series(1, 50)")
        connection.execute("PREPARE TRANSACTION 'left behind'")
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
    deployment.assert_exact()
    drop_slot(deployment)
    wait_said(daemon, "'left behind'", deadline=60)
    deployment.sql("COMMIT PREPARED 'left behind'")
    wait_new_epoch(deployment, old, deadline=60)
    deployment.assert_exact()


def test_a_half_open_connection_frees_the_slot_for_a_stand_by(
    deployment18: Deployment, postgres18: PostgresServer
) -> None:
    """Neither side is told that the other is gone: the server finds out by its timeout, the consumer by his."""
    deployment = deployment18
    short = "wal_sender_timeout_seconds = 3"
    deployment.init()
    with fault_link(postgres18.port) as link:
        through = deployment.dsn.replace(f":{postgres18.port}/", f":{link.port}/")
        one = deployment.daemon("one", deployment.write_config("through", dsn=through, postgres=short)).start()
        one.wait_ready()
        two = deployment.daemon("two", deployment.write_config("direct", postgres=short)).start()
        wait_said(two, "standing by")
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
            link.hold()
            wait_said(two, "streaming slot", deadline=60)
            traffic.wait_for_more()
            wait_said(one, "no sign of life from the server", deadline=60)
            link.pass_on()
            wait_said(one, "standing by", deadline=60)
        deployment.assert_exact()
        assert deployment.epoch() == epoch
        two.kill()
        one.kill()


def test_a_slot_that_is_invalidated_under_a_consumer_is_made_again(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    """Redis hangs, WAL grows beyond the server's own limit: it ends our walsender and takes the slot."""
    limits = {"max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    server = PostgresServer(fsync=False, settings=limits)
    with own_deployment(server, redis_url, tmp_path) as deployment, fault_link(redis_server.port) as link:
        deployment.init()
        config = deployment.write_config("p", redis_url=f"redis://127.0.0.1:{link.port}/0")
        daemon = deployment.daemon("p", config).start().wait_ready()
        old = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            link.hold()
            traffic.wait_for_more()

            def is_lost() -> bool:
                deployment.sql("SELECT pg_logical_emit_message(false, 'fill', 'x'), pg_switch_wal()")
                deployment.sql("CHECKPOINT")
                return deployment.sql("SELECT wal_status FROM pg_replication_slots") == [("lost",)]

            eventually_sync(is_lost, "the slot is invalidated", deadline=60)
            link.pass_on()
            wait_new_epoch(deployment, old, deadline=60)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert "every counter is rebuilt (slot lost)" in daemon.log_text()
        daemon.kill()


@pytest.mark.programme
def test_a_frozen_consumer_with_a_full_socket_can_be_ended(deployment18: Deployment) -> None:
    """The server's last word to it does not fit into the socket; whoever waits for the walsender waits with it."""
    deployment = deployment18
    deployment.init()
    config = deployment.write_config("frozen", postgres="wal_sender_timeout_seconds = 10")
    daemon = deployment.daemon("frozen", config).start().wait_ready()
    walsender = eventually_sync(deployment.walsender, "it streams")
    daemon.freeze()
    large = "SELECT pg_logical_emit_message(false, 'other', repeat('x', 8000000)) FROM generate_series(1, 6)"
    deployment.sql(large)
    blocked = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND wait_event LIKE '%%Write%%'"
    eventually_sync(lambda: deployment.sql(blocked, walsender), "the socket is full")
    deployment.sql("SELECT pg_terminate_backend(%s)", walsender)
    eventually_sync(lambda: deployment.walsender() is None, "the slot is free", deadline=90)
    daemon.thaw()
    deployment.assert_exact()
    assert daemon.running
