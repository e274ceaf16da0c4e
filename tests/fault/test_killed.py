"""Killed by SIGKILL at every named place of its own code: whoever comes next goes on from there, and it is exact.

Whatever is installed, changed, rebuilt or dropped has every failpoint ordered to kill, so that a new one is tried by
itself, and says which it must have reached.
"""

from collections.abc import Callable, Collection
from typing import Final

import pytest
import redis

from cdc_counter.failpoints import Failpoint
from tests.fault.deployment import COUNTERS, HONEST, Deployment, Traffic, command, wait_for_end
from tests.fault.losses import drop_publication
from tests.rig.eventually import eventually_sync
from tests.rig.failpoints import Action
from tests.rig.subscriber import subscribed
from tests.rig.tallies import all_tallies, wait_applied

KILLED: Final = -9

STREAM: Final = (
    Failpoint.AFTER_RECEIVE,
    Failpoint.BEFORE_APPLY,
    Failpoint.AFTER_APPLY,
    Failpoint.AFTER_CONFIRM,
    Failpoint.BEFORE_EMIT,
)
SEED: Final = frozenset(
    {
        Failpoint.SEED_CLEARED,
        Failpoint.SEED_SNAPSHOT,
        Failpoint.SEED_ADDED,
        Failpoint.OLD_SCOPES_DELETED,
        Failpoint.SEED_PUBLISHED,
        Failpoint.COUNTER_WRITTEN,
    }
)
RESEED: Final = SEED | {Failpoint.SLOT_DROPPED, Failpoint.SLOT_CREATED, Failpoint.EPOCH_BEGUN}
INIT: Final = SEED | {Failpoint.DATABASE_STEP, Failpoint.SLOT_CREATED, Failpoint.EPOCH_BEGUN}
APPLY: Final = SEED | {
    Failpoint.DATABASE_STEP,
    Failpoint.COUNTER_KNOWN,
    Failpoint.COUNTER_FORGOTTEN,
    Failpoint.TALLIES_CLEARED,
}
REBUILD: Final = RESEED | {Failpoint.READERS_TOLD, Failpoint.DATABASE_STEP}
DROP: Final = frozenset({Failpoint.SLOT_DROPPED, Failpoint.DATABASE_STEP, Failpoint.KEYS_DELETED})

FEW: Final = COUNTERS[: COUNTERS.index("[[counter]]", COUNTERS.index('"conversations"\n[[') + 20)]
OTHERS: Final = frozenset(HONEST) - {"open_by_channel", "conversations"}

CHANGED: Final = """
[[counter]]
name = "open_by_channel"
table = "conversations"
by = "channel_id"
[[counter]]
name = "by_status"
table = "conversations"
by = "status"
"""
"""One altered, one added, one removed."""


def test_every_failpoint_is_in_a_scenario() -> None:
    assert {*STREAM} | INIT | APPLY | REBUILD | DROP == set(Failpoint)


def killed_everywhere(deployment: Deployment, must_reach: Collection[Failpoint], run: Callable[[], int]) -> None:
    """Have `run` begin the same thing again and again, killed at another place each time, until it gets to its end.

    Where one command passes several times, it dies at the first; of what it adds in a seed, at each of three.
    """
    points = set(Failpoint) - {*STREAM}
    for point in points:
        deployment.failpoints.order(point, Action.KILL)
    died: list[Failpoint] = []
    while (code := run()) == KILLED:
        (point,) = [point for point in points if deployment.failpoints.reached(point)]
        died.append(point)
        deployment.failpoints.withdraw(point)
        if point is Failpoint.DATABASE_STEP:
            deployment.failpoints.order(point, Action.KILL)
        elif point is Failpoint.SEED_ADDED and died.count(point) < 3:
            deployment.failpoints.order(point, Action.KILL, died.count(point))
        assert len(died) < 60, died
    assert (code, set(died)) == (0, set(must_reach))
    for point in points:
        deployment.failpoints.withdraw(point)


def nothing_left_over(deployment: Deployment) -> None:
    """There is what is declared, and no trace of what was begun more than once."""
    assert command("plan", config=deployment.config).returncode == 0
    assert deployment.sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == [
        ("cdc_counter",)
    ]
    with redis.Redis.from_url(deployment.redis_url, protocol=2) as client:
        assert list(client.scan_iter(match="cdc:seeding:*", count=1000)) == []
        assert [field for field in client.hkeys("cdc:meta") if field.startswith(b"gone:")] == []


def test_consumer_killed_anywhere_on_the_path_of_a_change_is_exact_after_the_next_start(
    deployment18: Deployment,
) -> None:
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    daemon = deployment.daemon(program=deployment.failpoints.program).start().wait_ready()
    assert daemon.port is not None
    with subscribed(daemon.port, "conversations"), Traffic(deployment.dsn) as traffic:
        for point in STREAM:
            traffic.wait_for_more()
            deployment.failpoints.order(point, Action.KILL)
            assert wait_for_end(daemon, 60) == KILLED
            assert deployment.failpoints.reached(point), point
            daemon.start().wait_ready()
    deployment.assert_exact()
    assert deployment.epoch() == epoch, "something was lost, and counted again"


@pytest.mark.programme
def test_init_killed_after_every_step_is_finished_by_the_next(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.config = deployment.write_config("c", counters=FEW)
    with Traffic(deployment.dsn, 1):
        killed_everywhere(deployment, INIT, lambda: deployment.obedient("init").returncode)
    deployment.daemon().start()
    deployment.assert_exact(without=OTHERS)
    nothing_left_over(deployment)


@pytest.mark.programme
def test_apply_killed_after_every_step_is_finished_by_the_next(deployment18: Deployment) -> None:
    """Nothing else runs: `apply` counts what is added and altered, and clears what is removed, by itself."""
    deployment = deployment18
    deployment.config = deployment.write_config("c", counters=FEW)
    deployment.init()
    deployment.config = deployment.write_config("c", counters=CHANGED)
    with Traffic(deployment.dsn, 1):
        killed_everywhere(deployment, APPLY, lambda: deployment.obedient("apply").returncode)
    deployment.daemon().start()
    wait_applied(deployment.dsn, deployment.redis_url)
    found = all_tallies(deployment.redis_url)
    assert found == {
        (counter, "-", bucket): count
        for counter, column in (("open_by_channel", "channel_id"), ("by_status", "status"))
        for bucket, count in deployment.sql(f"SELECT {column}::text, count(*) FROM conversations GROUP BY 1")
    }
    nothing_left_over(deployment)


@pytest.mark.programme
def test_reseed_killed_after_every_step_is_finished_by_the_next(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.config = deployment.write_config("c", counters=FEW)
    deployment.init()
    with Traffic(deployment.dsn, 1):
        killed_everywhere(deployment, RESEED, lambda: deployment.obedient("init", "--reseed").returncode)
    deployment.daemon().start()
    deployment.assert_exact(without=OTHERS)
    nothing_left_over(deployment)


@pytest.mark.programme
def test_rebuild_killed_after_every_step_is_finished_by_the_next_start(deployment18: Deployment) -> None:
    """The publication is gone: it is made again, then the slot, then everything is counted."""
    deployment = deployment18
    deployment.config = deployment.write_config("c", counters=FEW)
    deployment.init()
    epoch = deployment.epoch()
    drop_publication(deployment)
    daemon = deployment.daemon(program=deployment.failpoints.program)

    def run() -> int:
        """Until it is killed, or has rebuilt everything."""
        daemon.start()
        eventually_sync(
            lambda: (
                not daemon.running or (deployment.epoch() != epoch and set(deployment.states().values()) == {"live"})
            ),
            "killed, or rebuilt",
            deadline=60,
        )
        return daemon.terminate()

    with Traffic(deployment.dsn, 1):
        killed_everywhere(deployment, REBUILD, run)
    daemon.start()
    deployment.assert_exact(without=OTHERS)
    nothing_left_over(deployment)


@pytest.mark.programme
def test_drop_killed_after_every_step_is_finished_by_the_next_and_leaves_no_slot(deployment18: Deployment) -> None:
    """Of an installation that was killed itself, as soon as it had a slot."""
    deployment = deployment18
    deployment.config = deployment.write_config("c", counters=FEW)
    deployment.failpoints.order(Failpoint.SLOT_CREATED, Action.KILL)
    assert deployment.obedient("init").returncode == KILLED
    with redis.Redis.from_url(deployment.redis_url) as client:
        client.set("cdc:meta:of-somebody-else", "stays")
        client.hset("cdc:meta", "epoch", "of an installation before")
        killed_everywhere(deployment, DROP, lambda: deployment.obedient("drop", "--yes").returncode)
        assert client.keys() == [b"cdc:meta:of-somebody-else"]
    assert deployment.sql("SELECT 1 FROM pg_replication_slots WHERE database = current_database()") == []
    assert deployment.sql("SELECT 1 FROM pg_publication") == []
    assert deployment.sql("SELECT 1 FROM pg_trigger WHERE NOT tgisinternal") == []
    assert deployment.sql("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'cdc%'") == []
