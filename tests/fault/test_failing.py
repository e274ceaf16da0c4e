"""What fails in the process itself: a reply or a connection that is lost, a defect of ours, want of memory."""

import resource
from pathlib import Path
from typing import Final

import pytest

from cdc_counter.failpoints import Failpoint
from tests.fault.deployment import Deployment, Traffic, wait_for_end, wait_said
from tests.fault.losses import end_walsender, flush
from tests.fault.test_killed import SEED, STREAM
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.failpoints import Action
from tests.rig.subscriber import subscribed
from tests.rig.tallies import wait_applied

INTERNAL: Final = 70


def test_lost_replies_and_lost_connections_change_nothing(deployment18: Deployment) -> None:
    """`fail` after a call is what a lost reply is: Redis has done it, and nobody knows."""
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    daemon = deployment.daemon(program=deployment.failpoints.program).start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        for point in (Failpoint.BEFORE_APPLY, Failpoint.AFTER_APPLY, Failpoint.AFTER_RECEIVE, Failpoint.AFTER_CONFIRM):
            deployment.failpoints.order(point, Action.FAIL)
            wait_said(daemon, f"failpoint {point}; trying again")
            traffic.wait_for_more()
    deployment.assert_exact()
    assert daemon.log_text().count("streaming slot") == 3, "the stream was ended for Redis's sake"
    assert deployment.epoch() == epoch, "something was lost, and counted again"


def test_lost_reply_to_the_last_call_of_a_seed_does_not_begin_it_again(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon(program=deployment.failpoints.program).start().wait_ready()
    for point, passes in ((Failpoint.SEED_ADDED, 2), (Failpoint.COUNTER_WRITTEN, 0)):
        deployment.failpoints.order(point, Action.FAIL, passes)
    with Traffic(deployment.dsn):
        flush(deployment)
        for point in (Failpoint.SEED_ADDED, Failpoint.COUNTER_WRITTEN):
            wait_said(daemon, f"failpoint {point}; trying again")
        wait_applied(deployment.dsn, deployment.redis_url)
    deployment.assert_exact()
    assert "seeding " not in daemon.log_text(), "a seed failed, and began again"
    assert daemon.log_text().count(" is live: ") == len(deployment.states())


def test_capture_that_broke_is_marked_before_the_step_that_tells_of_it(deployment18: Deployment) -> None:
    """The step comes once: a consumer that died between the two would leave a wrong number shown as good."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon(program=deployment.failpoints.program).start().wait_ready()
    deployment.failpoints.order(Failpoint.AFTER_APPLY, Action.KILL)
    deployment.sql("INSERT INTO orders (shop, amount, parts) VALUES ('broken', 1, 0)")
    assert wait_for_end(daemon, 60) == -9
    assert deployment.record("orders_by_ratio")["state"] == "stale"
    deployment.sql("UPDATE orders SET parts = 1 WHERE parts = 0")
    daemon.start()
    deployment.assert_exact()


@pytest.mark.programme
@pytest.mark.parametrize("point", [*STREAM, *sorted(SEED)])
def test_defect_anywhere_ends_the_process_and_is_said(deployment18: Deployment, point: Failpoint) -> None:
    """Also beside the stream, in a seed or in the gateway: nothing goes on without a part of it."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon(program=deployment.failpoints.program).start().wait_ready()
    assert daemon.port is not None
    with Traffic(deployment.dsn) as traffic:
        with subscribed(daemon.port, "conversations"):
            deployment.failpoints.order(point, Action.BREAK)
            if point in SEED:
                flush(deployment)
            assert wait_for_end(daemon, 60) == INTERNAL
        assert f"RuntimeError: failpoint {point}" in daemon.log_text()
        traffic.wait_for_more()
        daemon.start().wait_ready()
    deployment.assert_exact()


def test_without_descriptors_it_waits_and_goes_on_when_there_are_some(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    daemon = deployment.daemon().start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        before = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        # Fewer than are open: nothing can be opened any more, what is open stays.
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        end_walsender(deployment)
        # Whatever it wants to open first: the stream, or another connection to Redis.
        wait_said(daemon, "trying again", 2)
        traffic.wait_for_more()
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, before)
        wait_said(daemon, "streaming slot", 2)
    deployment.assert_exact()
    assert deployment.epoch() == epoch, "something was lost, and counted again"


@pytest.mark.programme
def test_out_of_memory_confirms_nothing_that_is_not_applied(deployment18: Deployment) -> None:
    """A transaction of a hundred thousand keys comes when there is no memory for it: whether it ends or goes on."""
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    daemon = deployment.daemon("consumer", None, "--role", "consumer").start()
    wait_said(daemon, "streaming slot")
    size = virtual_size(daemon)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, (size + (8 << 20), resource.RLIM_INFINITY))
    deployment.sql("INSERT INTO orders (shop, amount) SELECT 'shop ' || i, 1 FROM generate_series(1, 100000) AS i")
    eventually_sync(lambda: not daemon.running or "memory" in daemon.log_text().lower(), "memory is short", deadline=60)
    daemon.kill()
    assert daemon.process.returncode != 0
    daemon.start()
    deployment.assert_exact()
    assert deployment.epoch() == epoch, "something was lost, and counted again"


def virtual_size(daemon: Daemon) -> int:
    """Return bytes of address space."""
    pages = Path(f"/proc/{daemon.process.pid}/statm").read_text(encoding="utf-8").split()[0]
    return int(pages) * resource.getpagesize()
