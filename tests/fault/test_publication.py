"""The publication is altered and put back: what was written in between is not sent, and nothing of the stream tells.

Each alteration counts as lost rows, whether it is noticed under the stream or at the next start.
"""

from functools import partial

import psycopg
import pytest

from tests.fault.deployment import Deployment, Traffic, wait_for_end, wait_said
from tests.fault.losses import wait_new_epoch
from tests.rig.eventually import eventually_sync

DROP_AND_ADD = (
    "ALTER PUBLICATION cdc_counter DROP TABLE cdc_counter.outbox",
    "ALTER PUBLICATION cdc_counter ADD TABLE cdc_counter.outbox",
)
ALTERATIONS = {
    "table": DROP_AND_ADD,
    "filter": (
        "ALTER PUBLICATION cdc_counter SET TABLE cdc_counter.outbox WHERE (xid IS NULL)",
        "ALTER PUBLICATION cdc_counter SET TABLE cdc_counter.outbox",
    ),
    "operations": (
        "ALTER PUBLICATION cdc_counter SET (publish = 'update')",
        "ALTER PUBLICATION cdc_counter SET (publish = 'insert')",
    ),
}


def altered_for_a_while(deployment: Deployment, traffic: Traffic, kind: str) -> None:
    away, back = ALTERATIONS[kind]
    deployment.sql(away)
    traffic.wait_for_more()
    deployment.sql(back)


def test_an_outbox_that_was_not_published_for_a_moment_is_counted_again(deployment18: Deployment) -> None:
    """In one transaction, so that nobody can see it without: only its own write is missing from the stream."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        old = deployment.epoch()
        with psycopg.connect(deployment.dsn) as connection:
            for statement in (DROP_AND_ADD[0], "INSERT INTO conversations (account_id) VALUES (1)", DROP_AND_ADD[1]):
                connection.execute(statement)
        wait_new_epoch(deployment, old, deadline=60)
        traffic.wait_for_more()
    deployment.assert_exact()
    assert "every counter is rebuilt (rows dropped): the publication was altered" in daemon.log_text()
    assert daemon.running


@pytest.mark.programme
@pytest.mark.parametrize("kind", ALTERATIONS)
def test_a_publication_that_was_altered_while_nothing_ran_is_counted_again(deployment: Deployment, kind: str) -> None:
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    assert daemon.terminate() == 0
    old = deployment.epoch()
    with Traffic(deployment.dsn) as traffic:
        altered_for_a_while(deployment, traffic, kind)
        daemon.start()
        wait_new_epoch(deployment, old, deadline=60)
        traffic.wait_for_more()
    deployment.assert_exact()


@pytest.mark.programme
@pytest.mark.parametrize("kind", ALTERATIONS)
def test_an_altered_publication_ends_the_daemon_and_costs_a_recount(deployment: Deployment, kind: str) -> None:
    """It does not go on with what it can't trust, and says what is wrong; put back, everything is counted again."""
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    old = deployment.epoch()
    away, back = ALTERATIONS[kind]
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        deployment.sql(away)
        assert wait_for_end(daemon, deadline=60) == 5
        assert "rows may be missing from the stream" in daemon.log_text()
        traffic.wait_for_more()
        deployment.sql(back)
        daemon.start()
        wait_new_epoch(deployment, old, deadline=60)
        traffic.wait_for_more()
    deployment.assert_exact()


def looking_often(deployment: Deployment) -> None:
    deployment.config = deployment.write_config("c", postgres="inspection_seconds = 0.5")
    deployment.init()


def wait_all(deployment: Deployment, state: str) -> None:
    eventually_sync(lambda: set(deployment.states().values()) == {state}, f"every counter is {state}", deadline=60)


def looked_since(deployment: Deployment, look: str, before: list[tuple[object, ...]]) -> bool:
    return deployment.sql(look) not in ([], before)


def wait_looks(deployment: Deployment, count: int = 2) -> None:
    """Wait until the server was watched so often: the first of these looks is over when the last begins."""
    look = (
        "SELECT query_start FROM pg_stat_activity"
        " WHERE application_name = 'cdc-counter watch' AND datname = current_database()"
    )
    for _ in range(count):
        before = deployment.sql(look)
        eventually_sync(partial(looked_since, deployment, look, before), "another look", deadline=60)


@pytest.mark.programme
@pytest.mark.parametrize("when", ["streaming", "down"])
def test_an_outbox_that_is_renamed_ends_nothing_and_comes_back_by_itself(deployment18: Deployment, when: str) -> None:
    """Nothing can be written to it meanwhile, so only what is said to be missing is counted again."""
    deployment = deployment18
    looking_often(deployment)
    daemon = deployment.daemon().start().wait_ready()
    epoch = deployment.epoch()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        if when == "down":
            assert daemon.terminate() == 0
        deployment.sql("ALTER TABLE cdc_counter.outbox RENAME TO away")
        if when == "down":
            traffic.wait_for_more()
            daemon.start()
        wait_all(deployment, "stale")
        wait_looks(deployment)
        assert daemon.running
        deployment.sql("ALTER TABLE cdc_counter.away RENAME TO outbox")
        wait_all(deployment, "live")
        traffic.wait_for_more()
    deployment.assert_exact()
    assert daemon.running
    assert deployment.epoch() == epoch
    assert daemon.log_text().count("streaming slot") == (1 if when == "streaming" else 2)


@pytest.mark.programme
def test_an_outbox_that_is_dropped_is_stale_through_every_start_until_it_is_made_again(
    deployment18: Deployment,
) -> None:
    deployment = deployment18
    looking_often(deployment)
    daemon = deployment.daemon().start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        deployment.sql("DROP TABLE cdc_counter.outbox CASCADE")
        wait_all(deployment, "stale")
        assert daemon.terminate() == 0
        traffic.wait_for_more()
        daemon.start()
        wait_said(daemon, "streaming slot", 2)
        wait_all(deployment, "stale")
        assert daemon.terminate() == 0
        deployment.sql("DROP PUBLICATION cdc_counter")
        deployment.init("--reseed")
        daemon.start()
        traffic.wait_for_more()
    deployment.assert_exact()
    assert daemon.running
