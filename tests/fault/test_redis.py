"""Redis dies under each fsync policy, and is two servers for a while: nothing is counted twice or shown wrong."""

from pathlib import Path

import pytest
import redis

from cdc_counter.embedded import RedisServer
from tests.fault.deployment import Deployment, Traffic
from tests.fault.test_sentinel import shown_right
from tests.rig.eventually import eventually_sync
from tests.rig.redis_pair import redis_pair
from tests.rig.tallies import watermark


@pytest.mark.programme
def test_kill_9_loses_nothing_under_each_fsync_policy(database18: str, tmp_path: Path) -> None:
    """The operating system has what was written, synced or not."""
    with RedisServer() as server, Deployment(database18, server.url, tmp_path) as deployment:
        deployment.init()
        daemon = deployment.daemon().start().wait_ready(60)
        epoch = deployment.epoch()
        with Traffic(deployment.dsn) as traffic:
            for policy in ("always", "everysec", "no"):
                server.settings["appendfsync"] = policy
                for _ in range(2):
                    traffic.wait_for_more()
                    server.kill()
                    server.start()
            traffic.wait_for_more()
        deployment.assert_exact(deadline=60)
        assert deployment.epoch() == epoch
        assert daemon.running


@pytest.mark.programme
def test_an_old_master_that_goes_on_is_left_and_its_writes_are_counted_again(database18: str, tmp_path: Path) -> None:
    """Two masters: the daemon is switched from one to the other, back for a moment, and away for good."""
    with redis_pair() as pair, Deployment(database18, pair.url, tmp_path) as deployment:
        deployment.init()
        daemon = deployment.daemon().start().wait_ready(60)
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
            pair.copying.hold()
            traffic.wait_for_more()
            with redis.Redis.from_url(pair.replica.url) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            for server in (pair.replica, pair.master, pair.replica):
                pair.link.switch(server.port)
                before = watermark(server.url)
                eventually_sync(
                    lambda before=before, server=server: watermark(server.url) > before,  # type: ignore[misc]
                    "it goes on with this one",
                    deadline=60,
                )
                traffic.wait_for_more()
        deployment.assert_exact(deadline=60)
        shown_right(daemon, deployment)
        assert daemon.running
