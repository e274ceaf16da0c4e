"""A primary dies and its standby takes its place: what is certain goes on, what is not is counted again."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fault.deployment import Deployment, Traffic, wait_said
from tests.rig.standby import StandbyPair


@pytest.fixture
def pair() -> Iterator[StandbyPair]:
    """Start a primary that waits for its standby before it sends anything to a consumer."""
    with StandbyPair() as started:
        yield started


def deployed(pair: StandbyPair, redis_url: str, folder: Path) -> Deployment:
    """Return a deployment whose daemons and writers follow the primary."""
    with psycopg.connect(pair.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE helpdesk")
    return Deployment(pair.dsn("helpdesk"), redis_url, folder)


@pytest.mark.parametrize("times", [1, pytest.param(4, marks=pytest.mark.programme)])
def test_a_failover_slot_goes_on_without_loss_and_without_a_rebuild(
    pair: StandbyPair, redis_url: str, tmp_path: Path, times: int
) -> None:
    with deployed(pair, redis_url, tmp_path) as deployment:
        deployment.config = deployment.write_config("c", postgres="failover = true")
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            for number in range(1, times + 1):
                pair.wait_slot_synced()
                traffic.wait_for_more()
                pair.fail_over()
                wait_said(daemon, "nothing applied is lost", number, deadline=60)
                traffic.wait_for_more()
                if number < times:
                    pair.build_standby()
        deployment.assert_exact()
        assert deployment.epoch() == epoch
        assert daemon.running
