"""Redis or the slot is lost under a running consumer and under writes: it counts everything again, without an end.

Nobody's transaction is waited for where the slot is sound, and no number is shown as good that is not.
"""

import urllib.request
from contextlib import closing

import psycopg

from tests.fault.deployment import Deployment, Traffic, fetch, wait_said
from tests.fault.losses import (
    advance_slot,
    create_again,
    drop_publication,
    drop_slot,
    end_walsender,
    flush,
    wait_new_epoch,
)
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync

RESEED = 6


def started(deployment: Deployment) -> Daemon:
    deployment.init()
    return deployment.daemon().start().wait_ready()


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


def test_what_redis_lost_is_counted_again_while_a_transaction_stays_open(deployment: Deployment) -> None:
    """An epoch begins where the slot stands; what the open transaction wrote is counted when it commits."""
    daemon = started(deployment)
    gateway = deployment.daemon("gateway", None, "--role", "gateway").start()
    with closing(held_open(deployment)) as held, Traffic(deployment.dsn) as traffic:
        for _ in range(2):
            traffic.wait_for_more()
            old = deployment.epoch()
            flush(deployment)
            wait_new_epoch(deployment, old)
        deployment_is_live = lambda: set(deployment.states().values()) == {"live"}  # noqa: E731
        eventually_sync(deployment_is_live, "every counter is live", deadline=30)
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
