"""Frozen by SIGSTOP at a named place, and awake beside a successor: it applies nothing, confirms nothing, waits."""

import time
from pathlib import Path
from typing import Final

import pytest

from cdc_counter.failpoints import Failpoint
from tests.fault.deployment import Deployment, Traffic, wait_said
from tests.fault.losses import end_walsender, flush, wait_new_epoch
from tests.fault.test_killed import SEED, STREAM
from tests.rig.eventually import eventually_sync
from tests.rig.failpoints import Action, Failpoints
from tests.rig.subscriber import subscribed
from tests.rig.tallies import end_of_wal, watermark

QUICK: Final = "wal_sender_timeout_seconds = 5"
"""The server gives the slot free so soon after its consumer has fallen silent."""

LONGER_THAN_ANY: Final = 6.0
"""Seconds: Redis's replies are waited for 5, and so does the server wait, as configured here."""


def test_batch_of_a_frozen_consumer_is_not_added_to_what_its_successor_applied_of_it(
    deployment18: Deployment, tmp_path: Path
) -> None:
    """The successor has applied its first transaction, which a guard that only asks for a lower watermark adds again.

    A batch is folded from what arrives together: so it arrives while the consumer is frozen. The successor takes a
    batch per transaction, and stands still after the first.
    """
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    one = deployment.daemon("one", program=deployment.failpoints.program).start().wait_ready()
    others = Failpoints(tmp_path / "others")
    # While it stands still, its connection stays, and keeps the slot from the other one.
    patient = "wal_sender_timeout_seconds = 300"
    small = deployment.write_config("small", postgres=patient, extra="[stream]\nmax_batch_keys = 1")
    two = deployment.daemon("two", small, program=others.program).start()
    wait_said(two, "standing by")

    one.freeze()
    for number in range(30):
        deployment.sql("INSERT INTO orders (shop, amount) VALUES (%s, %s)", f"shop {number % 3}", number)
    deployment.failpoints.order(Failpoint.BEFORE_APPLY, Action.FREEZE)
    others.order(Failpoint.AFTER_APPLY, Action.FREEZE)
    one.thaw()
    deployment.failpoints.wait_reached(Failpoint.BEFORE_APPLY)
    end_walsender(deployment)
    others.wait_reached(Failpoint.AFTER_APPLY)
    applied, confirmed = watermark(deployment.redis_url), deployment.slot_position()

    one.thaw()
    wait_said(one, "standing by")
    assert watermark(deployment.redis_url) == applied
    assert deployment.slot_position() == confirmed
    two.thaw()
    deployment.assert_exact()
    assert (one.running, two.running) == (True, True)
    assert deployment.epoch() == epoch, "something was lost, and counted again"


@pytest.mark.programme
@pytest.mark.parametrize("point", STREAM)
def test_consumer_frozen_for_longer_than_every_timeout_wakes_up_as_stand_by(
    deployment18: Deployment, point: Failpoint
) -> None:
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    one = deployment.daemon(
        "one", deployment.write_config("quick-one", postgres=QUICK), program=deployment.failpoints.program
    )
    assert one.port is not None
    one.start().wait_ready()
    two = deployment.daemon("two", deployment.write_config("quick-two", postgres=QUICK)).start()
    wait_said(two, "standing by")
    with subscribed(one.port, "conversations"), Traffic(deployment.dsn) as traffic:
        deployment.failpoints.order(point, Action.FREEZE)
        deployment.failpoints.wait_reached(point)
        since = time.monotonic()
        wait_said(two, "streaming slot", 1)
        wait_moving(deployment)
        eventually_sync(lambda: time.monotonic() > since + LONGER_THAN_ANY, "every timeout is over", deadline=60)
        one.thaw()
        wait_said(one, "standing by", 1)
        traffic.wait_for_more()
        assert [daemon.log_text().count("streaming slot") for daemon in (one, two)] == [1, 1]
        two.kill()
        wait_said(one, "streaming slot", 2)
        traffic.wait_for_more()
    deployment.assert_exact()
    assert deployment.epoch() == epoch, "something was lost, and counted again"


@pytest.mark.programme
@pytest.mark.parametrize("point", sorted(SEED))
def test_seeder_frozen_and_awake_beside_its_successor_changes_nothing(
    deployment18: Deployment, point: Failpoint
) -> None:
    """What it does next after it wakes up is another script call: each compares the seed's journal."""
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    one = deployment.daemon(
        "one", deployment.write_config("quick-one", postgres=QUICK), program=deployment.failpoints.program
    )
    one.start().wait_ready()
    two = deployment.daemon("two", deployment.write_config("quick-two", postgres=QUICK)).start()
    wait_said(two, "standing by")
    with Traffic(deployment.dsn) as traffic:
        deployment.failpoints.order(point, Action.FREEZE, 2 if point is Failpoint.SEED_ADDED else 0)
        flush(deployment)
        deployment.failpoints.wait_reached(point)
        wait_new_epoch(deployment, epoch)
        wait_said(two, "streaming slot", 1, deadline=60)
        eventually_sync(lambda: {*deployment.states().values()} == {"live"}, "the successor counts", deadline=60)
        traffic.wait_for_more()
        one.thaw()
        wait_said(one, "standing by", 1)
        traffic.wait_for_more()
        assert {*deployment.states().values()} == {"live"}
    deployment.assert_exact()
    assert (one.running, two.running) == (True, True)


def wait_moving(deployment: Deployment) -> None:
    """Wait until something that is committed from now on is applied."""
    goal = end_of_wal(deployment.dsn)
    eventually_sync(lambda: watermark(deployment.redis_url) >= goal, f"watermark at {goal}", deadline=60)
