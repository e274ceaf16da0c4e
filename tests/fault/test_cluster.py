"""Redis Cluster: the node that serves the prefix is found, and followed when its slot moves or a replica takes over."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdc_counter.embedded import RedisServer
from tests.fault.deployment import Deployment, Traffic, command, wait_said
from tests.fault.test_sentinel import shown_right
from tests.rig.daemon import Daemon
from tests.rig.redis import ask
from tests.rig.redis_cluster import ClusterRig, redis_cluster

PREFIX = "{cdc}"


@pytest.fixture
def cluster() -> Iterator[ClusterRig]:
    with redis_cluster() as made:
        yield made


@pytest.fixture
def deployment(database18: str, cluster: ClusterRig, tmp_path: Path) -> Iterator[Deployment]:
    with deployed(database18, cluster, tmp_path) as made:
        yield made


@contextmanager
def deployed(dsn: str, cluster: ClusterRig, folder: Path) -> Iterator[Deployment]:
    with Deployment(dsn, cluster.owner(PREFIX).url, folder, prefix=PREFIX) as made:
        made.config = made.write_config("c", redis=cluster.options)
        yield made


def started(deployment: Deployment) -> Daemon:
    deployment.init()
    return deployment.daemon().start().wait_ready(60)


def another(cluster: ClusterRig, than: RedisServer) -> RedisServer:
    return next(node for node in cluster.masters if node is not than)


def test_everything_works_on_a_cluster(deployment: Deployment, cluster: ClusterRig) -> None:
    daemon = started(deployment)
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
    deployment.assert_exact(deadline=60)
    shown_right(daemon, deployment)
    for words in (["status"], ["verify"], ["plan"], ["apply"]):
        done = command(*words, config=deployment.config)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert daemon.terminate() == 0
    assert command("drop", "--yes", config=deployment.config).returncode == 0
    assert [ask(node.port, "DBSIZE") for node in cluster.nodes] == [0, 0, 0]


@pytest.mark.programme
def test_a_slot_that_is_moved_under_load_takes_its_tallies_along(deployment: Deployment, cluster: ClusterRig) -> None:
    """Between its two ends no batch may be applied to half of the keys, nor a number be shown that is not right."""
    daemon = started(deployment)
    epoch = deployment.epoch()
    with Traffic(deployment.dsn) as traffic:
        for number in range(1, 4):
            traffic.wait_for_more()
            owner = cluster.owner(PREFIX)
            to = another(cluster, owner)
            cluster.begin_move(PREFIX, to)
            assert cluster.move_some(PREFIX, to) > 0
            wait_said(daemon, "applying deltas", number)
            traffic.wait_for_more()
            while cluster.move_some(PREFIX, to):
                pass
            cluster.end_move(PREFIX, to)
            deployment.redis_url = to.url
        traffic.wait_for_more()
    deployment.assert_exact(deadline=60)
    shown_right(daemon, deployment)
    assert deployment.epoch() == epoch, "nothing was lost"
    assert command("verify", config=deployment.config).returncode == 0


@pytest.mark.programme
def test_a_node_that_dies_is_followed_by_its_replica(database18: str, tmp_path: Path) -> None:
    with redis_cluster(replicas=True) as cluster, deployed(database18, cluster, tmp_path) as deployment:
        daemon = started(deployment)
        with Traffic(deployment.dsn) as traffic:
            for _ in range(2):
                traffic.wait_for_more()
                dead = cluster.owner(PREFIX)
                dead.kill()
                deployment.redis_url = cluster.owner(PREFIX).url
                traffic.wait_for_more()
                dead.start()
                cluster.wait_ok()
            traffic.wait_for_more()
        deployment.assert_exact(deadline=60)
        shown_right(daemon, deployment)
        assert daemon.running
