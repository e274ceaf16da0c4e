"""A primary dies and its standby takes its place: what is certain goes on, what is not is counted again."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fault.deployment import Deployment, Traffic, command, honest_recount, wait_said
from tests.fault.losses import wait_new_epoch
from tests.rig.standby import StandbyPair
from tests.rig.tallies import all_tallies, wait_applied


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


@pytest.mark.programme
def test_what_only_the_dead_primary_had_is_counted_again(redis_url: str, tmp_path: Path) -> None:
    """Without `synchronized_standby_slots` the consumer can be ahead of the standby: Redis then holds phantoms."""
    with StandbyPair(guarded=False) as pair, deployed(pair, redis_url, tmp_path) as deployment:
        deployment.config = deployment.write_config("c", postgres="failover = true")
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            pair.wait_slot_synced()
            pair.copying.hold()
            traffic.wait_for_more()
        wait_applied(deployment.dsn, redis_url)
        ahead = all_tallies(redis_url)
        pair.fail_over()
        assert honest_recount(deployment.dsn) != ahead, "the standby was not behind"
        wait_new_epoch(deployment, epoch, deadline=60)
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        assert "every counter is rebuilt (other history)" in daemon.log_text()
        assert daemon.running


@pytest.mark.programme
def test_a_guarded_consumer_waits_for_a_standby_that_is_behind(
    pair: StandbyPair, redis_url: str, tmp_path: Path
) -> None:
    """Nothing is sent that the standby lacks, so that nothing is taken back when it is promoted."""
    with deployed(pair, redis_url, tmp_path) as deployment:
        deployment.config = deployment.write_config("c", postgres="failover = true")
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            pair.wait_slot_synced()
            pair.copying.hold()
            before = traffic.committed
            traffic.wait_for_more(50)
            assert traffic.committed >= before + 50, "writers wait for nobody"
            pair.fail_over()
            wait_said(daemon, "nothing applied is lost", deadline=60)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert deployment.epoch() == epoch


@pytest.mark.programme
@pytest.mark.parametrize("failover", ["false", "true"], ids=["plain", "not synced yet"])
def test_a_standby_without_our_slot_is_counted_again(redis_url: str, tmp_path: Path, failover: str) -> None:
    """A plain slot dies with its primary, and so does one that the standby has not copied yet."""
    with (
        StandbyPair(guarded=False, settings={"sync_replication_slots": "off"}) as pair,
        deployed(pair, redis_url, tmp_path) as deployment,
    ):
        deployment.config = deployment.write_config("c", postgres=f"failover = {failover}")
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        wait_applied(deployment.dsn, redis_url)
        pair.wait_caught_up()
        pair.fail_over()
        wait_new_epoch(deployment, epoch, deadline=60)
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        assert "slot gone" in daemon.log_text() or "other history" in daemon.log_text()


@pytest.mark.programme
def test_a_standby_is_not_streamed_until_it_is_promoted(pair: StandbyPair, redis_url: str, tmp_path: Path) -> None:
    """The address that moves too early, and a dsn that names the standby: clear words, and no rebuild."""
    with deployed(pair, redis_url, tmp_path) as deployment:
        deployment.config = deployment.write_config("c", postgres="failover = true")
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        epoch = deployment.epoch()
        pair.wait_slot_synced()
        pair.primary.kill()
        pair.address.switch(pair.standby.port)
        wait_said(daemon, "this server is a standby, in recovery", deadline=60)
        tried = command("init", config=deployment.config)
        assert (tried.returncode, "the server is a standby (in recovery)" in tried.stdout + tried.stderr) == (3, True)
        pair.promote()
        wait_said(daemon, "nothing applied is lost", deadline=60)
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
        deployment.assert_exact()
        assert deployment.epoch() == epoch
