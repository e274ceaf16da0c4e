"""Told to stop, at whatever it is doing: it ends with exit code 0 and leaves the slot where the tallies are."""

import signal

import pytest

from cdc_counter.embedded import RedisServer
from tests.fault.deployment import Deployment, Traffic, wait_for_end, wait_said
from tests.fault.link import fault_link
from tests.fault.losses import flush
from tests.fault.test_killed import SEED, STREAM
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.failpoints import Action
from tests.rig.subscriber import subscribed
from tests.rig.tallies import watermark


@pytest.mark.programme
def test_sigterm_anywhere_on_the_path_of_a_change_drains_and_confirms(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    daemon = deployment.daemon(program=deployment.failpoints.program)
    assert daemon.port is not None
    with Traffic(deployment.dsn) as traffic:
        for point in STREAM:
            daemon.start().wait_ready()
            with subscribed(daemon.port, "conversations"):
                deployment.failpoints.order(point, Action.TERMINATE)
                assert wait_for_end(daemon, 60) == 0, daemon.log_text()[-2000:]
            assert deployment.failpoints.reached(point), point
            assert deployment.slot_position() == watermark(deployment.redis_url)
            traffic.wait_for_more()
    daemon.start()
    deployment.assert_exact()
    assert deployment.epoch() == epoch, "something was lost, and counted again"


@pytest.mark.programme
def test_sigterm_in_the_middle_of_a_seed_ends_it(deployment18: Deployment) -> None:
    """The next start begins that seed again."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon(program=deployment.failpoints.program)
    with Traffic(deployment.dsn) as traffic:
        for point in sorted(SEED):
            daemon.start().wait_ready()
            # What was begun before must not be what is stopped: then nobody would have begun an epoch after the loss.
            eventually_sync(lambda: {*deployment.states().values()} == {"live"}, "every counter is live", deadline=60)
            deployment.failpoints.order(point, Action.TERMINATE)
            flush(deployment)
            assert wait_for_end(daemon, 60) == 0, daemon.log_text()[-2000:]
            assert deployment.failpoints.reached(point), point
            traffic.wait_for_more()
    daemon.start()
    deployment.assert_exact()


def test_a_second_signal_ends_it_at_once_and_loses_nothing(deployment18: Deployment, redis_server: RedisServer) -> None:
    """Redis answers no more, so that the first one waits for it."""
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    with fault_link(redis_server.port) as link:
        config = deployment.write_config("proxied", redis_url=f"redis://127.0.0.1:{link.port}/0")
        daemon = deployment.daemon("consumer", config, "--role", "consumer").start()
        wait_said(daemon, "streaming slot")
        with Traffic(deployment.dsn) as traffic:
            link.hold()
            traffic.wait_for_more()
            eventually_sync(lambda: asked_again(daemon), "the signals end it")
        assert daemon.process.returncode == -signal.SIGTERM
    deployment.daemon().start()
    deployment.assert_exact()
    assert deployment.epoch() == epoch, "something was lost, and counted again"


def asked_again(daemon: Daemon) -> bool:
    """Send one more SIGTERM, unless it has ended."""
    if daemon.running:
        daemon.process.terminate()
    return not daemon.running
