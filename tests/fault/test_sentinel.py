"""Redis behind Sentinel: the master is found, followed when it changes, and what it lost is counted again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.deployment import Deployment, Traffic, command, fetch
from tests.fault.losses import wait_new_epoch
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.sentinels import SentinelRig, sentinel_rig
from tests.rig.tallies import wait_applied, watermark


@pytest.fixture
def rig() -> Iterator[SentinelRig]:
    with sentinel_rig() as made:
        yield made


@pytest.fixture
def deployment(database18: str, rig: SentinelRig, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(database18, rig.servers[0].url, tmp_path) as made:
        # The address in url is nobody's.
        made.config = made.write_config("c", redis_url="redis://nowhere.invalid:1/0", redis=rig.options)
        yield made


def started(deployment: Deployment) -> Daemon:
    deployment.init()
    return deployment.daemon().start().wait_ready(60)


def follow(deployment: Deployment, rig: SentinelRig, master: int) -> None:
    """Let the test look where the tallies are now."""
    deployment.redis_url = rig.servers[master].url


def shown_right(daemon: Daemon, deployment: Deployment) -> None:
    """Wait until a reader of the gateway gets the number that the table has, as live."""

    def right() -> bool:
        ((truth,),) = deployment.sql("SELECT count(*) FROM conversations")
        status, body = fetch(daemon, "/v1/counters/conversations")
        return (status, body.get("values"), body.get("state")) == (200, {"-": truth}, "live")

    eventually_sync(right, "the gateway shows the right number", deadline=60)


def test_a_master_that_dies_is_followed(deployment: Deployment, rig: SentinelRig) -> None:
    daemon = started(deployment)
    with Traffic(deployment.dsn) as traffic:
        for _ in range(2):
            traffic.wait_for_more()
            follow(deployment, rig, rig.kill_master())
            rig.revive()
        traffic.wait_for_more()
    deployment.assert_exact(deadline=60)
    shown_right(daemon, deployment)
    for words in (["status"], ["verify"], ["plan"]):
        done = command(*words, config=deployment.config)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert daemon.terminate() == 0
    assert command("drop", "--yes", config=deployment.config).returncode == 0
    assert deployment.epoch() == ""


@pytest.mark.programme
def test_a_replica_that_lagged_when_sentinel_promoted_it_is_a_gap(deployment: Deployment, rig: SentinelRig) -> None:
    daemon = started(deployment)
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        rig.links[0].hold()
        before, old = deployment.slot_position(), deployment.epoch()
        traffic.wait_for_more()
        eventually_sync(lambda: deployment.slot_position() > before, "the slot has moved on", deadline=60)
        follow(deployment, rig, rig.kill_master())
        wait_new_epoch(deployment, old, deadline=60)
        traffic.wait_for_more()
    deployment.assert_exact(deadline=60)
    shown_right(daemon, deployment)
    assert "Redis lost what it had applied" in daemon.log_text()


@pytest.mark.programme
def test_a_replica_that_lagged_costs_nothing_where_it_is_waited_for(deployment: Deployment, rig: SentinelRig) -> None:
    # What is not confirmed is applied again: two Sentinel failovers, one each way.
    deployment.config = deployment.write_config(
        "c", redis_url="redis://nowhere.invalid:1/0", redis=rig.options + 'confirm = "replicated"'
    )
    daemon = started(deployment)
    epoch = deployment.epoch()
    with Traffic(deployment.dsn) as traffic:
        for _ in range(2):
            traffic.wait_for_more()
            master = rig.master()
            rig.links[master].hold()
            traffic.wait_for_more()
            wait_applied(deployment.dsn, deployment.redis_url)
            ahead = watermark(deployment.redis_url)
            assert deployment.slot_position() < ahead
            follow(deployment, rig, rig.kill_master())
            rig.links[master].release()
            rig.revive()
            traffic.wait_for_more()
    deployment.assert_exact(deadline=60)
    shown_right(daemon, deployment)
    assert deployment.epoch() == epoch
