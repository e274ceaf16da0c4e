"""Whatever dies, no client is ever shown an older version of an epoch, and each ends with an honest recount."""

from collections.abc import Iterator

import pytest

from tests.fault import stage as faults
from tests.fault.deployment import Traffic
from tests.fault.stage import ROOMS, Fault, Stage, stage
from tests.rig.watchers import Watchers

_LONG = pytest.mark.programme


@pytest.fixture(scope="module")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.mark.parametrize(
    "fault",
    [
        faults.kill_gateways,
        faults.kill_redis,
        pytest.param(faults.kill_consumer, marks=_LONG),
        pytest.param(faults.bring_redis_back_older, marks=_LONG),
        pytest.param(faults.flush_redis, marks=_LONG),
        pytest.param(faults.crash_postgres, marks=_LONG),
        pytest.param(faults.trim_the_feed, marks=_LONG),
        pytest.param(faults.freeze_gateway, marks=_LONG),
        pytest.param(faults.freeze_consumer, marks=_LONG),
        pytest.param(faults.hold_the_link, marks=_LONG),
        pytest.param(faults.cut_the_link, marks=_LONG),
    ],
    ids=lambda fault: str(fault.__name__),
)
def test_no_client_goes_back_and_every_one_ends_exact(fault: Fault, shared_stage: Stage) -> None:
    deployment = shared_stage.deployment
    with Watchers(shared_stage.urls, ROOMS, count=12) as watchers:
        watchers.wait_connected()
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
            fault(shared_stage, traffic)
            traffic.wait_for_more()
        deployment.assert_exact(deadline=60)
        watchers.wait_equal(shared_stage.truth())
        assert all(client.changes > 0 for client in watchers.clients)
