"""Whatever happens to us, the application's writes go on: no error, no wait for us, and exact numbers in the end."""

from collections.abc import Callable, Iterator

import pytest

from cdc_counter.embedded import PostgresServer
from tests.fault.harm import FAULTS, LONG, Scene, stage


@pytest.fixture(scope="module")
def scenes(postgres18: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Scene]]:
    """One deployment for all: each fault leaves it well."""
    with stage(postgres18, tmp_path_factory.mktemp("writes")) as make:
        yield make


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.__name__, marks=[pytest.mark.programme] * (fault in LONG)) for fault in FAULTS],
)
def test_writer_sees_no_error_and_waits_for_nobody_of_ours(
    scenes: Callable[[], Scene], fault: Callable[[Scene], None]
) -> None:
    scene = scenes()
    scene.writers.may_wait = FAULTS[fault]
    with scene.writers as writers:
        writers.wait_for_more(10)
        fault(scene)
        writers.wait_for_more(10)
    scene.deployment.assert_exact(deadline=60)
