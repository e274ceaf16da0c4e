"""The publication is altered and put back: what was written in between is not sent, and nothing of the stream tells.

Each alteration counts as lost rows, whether it is noticed under the stream or at the next start.
"""

import psycopg
import pytest

from tests.fault.deployment import Deployment, Traffic, wait_for_end
from tests.fault.losses import wait_new_epoch

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
