"""The slot makes the server keep too much WAL: it is dropped, the disk is free again, and every number comes back."""

import re
import urllib.request
from contextlib import closing
from functools import partial

import psycopg
import pytest

from cdc_counter.embedded import RedisServer
from tests.fault.deployment import Deployment, Traffic, wait_said
from tests.fault.link import fault_link
from tests.fault.losses import wait_new_epoch
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync

FUSE = "fuse_wal_mb = 32"
BLEW = "the fuse blew, slot 'cdc_counter' is dropped"


def metric(daemon: Daemon, name: str) -> float:
    """Return a metric without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}/metrics", timeout=30) as answer:
        match = re.search(rf"^cdc_counter_{name} (\S+)$", answer.read().decode(), flags=re.MULTILINE)
    return float(match[1]) if match else 0.0


def write_wal(deployment: Deployment, megabytes: int = 8) -> None:
    """Write that much WAL that is nobody's business."""
    deployment.sql(f"SELECT pg_logical_emit_message(false, 'fill', repeat('x', {megabytes} * 1000000))")


def keeps(daemon: Daemon, megabytes: int) -> bool:
    """Say whether the daemon has seen that the slot keeps so much."""
    return metric(daemon, "retained_wal_bytes") > megabytes * 1e6


def kept(deployment: Deployment) -> int:
    """Return how many bytes of WAL the slot keeps."""
    rows = deployment.sql(
        "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)::bigint FROM pg_replication_slots"
        " WHERE slot_name = 'cdc_counter'"
    )
    return rows[0][0] or 0 if rows else 0


def slot_exists(deployment: Deployment) -> bool:
    return bool(deployment.sql("SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'cdc_counter'"))


def write_until_dropped(deployment: Deployment) -> None:
    def dropped() -> bool:
        write_wal(deployment)
        return not slot_exists(deployment)

    eventually_sync(dropped, "the slot is dropped", deadline=60)


@pytest.mark.parametrize("away", ["hangs", pytest.param("dead", marks=pytest.mark.programme)])
def test_the_slot_goes_while_redis_is_away_and_comes_back_with_it(
    deployment18: Deployment, redis_server: RedisServer, away: str
) -> None:
    """Once with a call to Redis that has no answer, once with no Redis since the daemon started."""
    deployment = deployment18
    deployment.init()
    with fault_link(redis_server.port) as link:
        url = f"redis://127.0.0.1:{link.port}/0"
        daemon = deployment.daemon("proxied", deployment.write_config("p", redis_url=url, postgres=FUSE))
        old = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            if away == "hangs":
                daemon.start().wait_ready()
                link.hold()
            else:
                link.switch(1)
                daemon.start()
                wait_said(daemon, "redis: ")
            traffic.wait_for_more()
            write_until_dropped(deployment)
            wait_said(daemon, BLEW)
            eventually_sync(lambda: metric(daemon, "fuse_blown") == 1, "the metric says so")
            traffic.wait_for_more()
            link.switch(redis_server.port)
            link.pass_on()
            wait_new_epoch(deployment, old, deadline=60)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert metric(daemon, "fuse_blown") == 0
        assert daemon.log_text().count(BLEW) == 1
        assert "every counter is rebuilt (fuse blown)" in daemon.log_text()
        daemon.kill()


@pytest.mark.programme
def test_a_transaction_that_stays_open_costs_the_slot_once(deployment18: Deployment) -> None:
    """The WAL is free at once; the new slot waits, and does not blow and begin anew all the time."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon("fused", deployment.write_config("f", postgres=FUSE)).start().wait_ready()
    old = deployment.epoch()
    with closing(psycopg.connect(deployment.dsn)) as held, Traffic(deployment.dsn) as traffic:
        held.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 1)")
        traffic.wait_for_more()
        write_until_dropped(deployment)
        wait_said(daemon, f"waiting for pid {held.info.backend_pid}")
        assert set(deployment.states().values()) == {"rebuilding"}
        for _ in range(6):
            write_wal(deployment)
        # An attempt at a new slot keeps WAL, too, but not for long.
        eventually_sync(lambda: kept(deployment) < 16 << 20, "what the attempt kept is free", deadline=60)
        assert deployment.epoch() == old
        held.commit()
        wait_new_epoch(deployment, old, deadline=60)
        traffic.wait_for_more()
    deployment.assert_exact()
    assert daemon.log_text().count(BLEW) == 1
    assert daemon.running


@pytest.mark.programme
def test_a_stand_by_drops_no_slot_that_is_streamed(deployment18: Deployment) -> None:
    """However much WAL it keeps: here because of somebody's transaction."""
    deployment = deployment18
    deployment.init()
    one = deployment.daemon("one", deployment.write_config("unfused", postgres="fuse_wal_mb = 0")).start().wait_ready()
    two = deployment.daemon("two", deployment.write_config("fused", postgres=FUSE)).start()
    wait_said(two, "standing by")
    epoch = deployment.epoch()
    with closing(psycopg.connect(deployment.dsn)) as held:
        held.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 1)")
        for megabytes in (40, 60, 80, 100):
            write_wal(deployment, 40 if megabytes == 40 else 20)
            # Each a look of the stand-by's that finds it far beyond the limit.
            eventually_sync(partial(keeps, two, megabytes), f"{megabytes} MB are seen", deadline=60)
        held.commit()
    deployment.assert_exact()
    assert deployment.epoch() == epoch
    assert BLEW not in two.log_text()
    assert one.running
    assert two.running


@pytest.mark.programme
@pytest.mark.parametrize("again", ["thawed", "started"])
def test_a_consumer_that_slept_too_long_drops_its_slot_when_it_wakes(deployment: Deployment, again: str) -> None:
    deployment.init()
    config = deployment.write_config("f", postgres=f"{FUSE}\nwal_sender_timeout_seconds = 2")
    daemon = deployment.daemon("fused", config).start().wait_ready()
    old = deployment.epoch()
    with Traffic(deployment.dsn) as traffic:
        daemon.freeze()
        eventually_sync(lambda: deployment.walsender() is None, "the server gave up on it", deadline=60)
        for _ in range(6):
            write_wal(deployment)
        traffic.wait_for_more()
        assert slot_exists(deployment)
        if again == "thawed":
            daemon.thaw()
        else:
            daemon.kill()
            daemon.start()
        wait_said(daemon, BLEW)
        wait_new_epoch(deployment, old, deadline=60)
        traffic.wait_for_more()
    deployment.assert_exact()
    assert daemon.log_text().count(BLEW) == 1
