"""What can be lost under a running consumer, and waiting until it has counted everything again."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import redis

from tests.fault.deployment import Deployment
from tests.rig.eventually import eventually_sync


def flush(deployment: Deployment) -> None:
    """Empty Redis."""
    with redis.Redis.from_url(deployment.redis_url) as client:
        client.flushall()


def end_walsender(deployment: Deployment) -> None:
    """End the backend that streams the slot, if there is one."""
    deployment.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'cdc_counter'")


def drop_slot(deployment: Deployment) -> None:
    """Drop the slot, also under a consumer that streams it."""

    def dropped() -> bool:
        end_walsender(deployment)
        with suppress(psycopg.errors.ObjectInUse):
            deployment.sql(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'cdc_counter'"
            )
            return True
        return False

    eventually_sync(dropped, "the slot is dropped")


def create_again(deployment: Deployment) -> None:
    """Drop the slot and create one of that name, unless the consumer is quicker."""
    drop_slot(deployment)
    with suppress(psycopg.errors.DuplicateObject):
        deployment.sql("SELECT pg_create_logical_replication_slot('cdc_counter', 'pgoutput')")


def drop_publication(deployment: Deployment) -> None:
    """Drop the publication under the consumer."""
    deployment.sql("DROP PUBLICATION cdc_counter")
    # A walsender that has read the publication goes on with what it remembers.
    end_walsender(deployment)


def advance_slot(deployment: Deployment) -> None:
    """Move the slot ahead by hand, past a commit that nobody applied."""

    def advanced() -> bool:
        with suppress(psycopg.errors.ObjectInUse):
            deployment.sql("SELECT pg_replication_slot_advance('cdc_counter', pg_current_wal_flush_lsn())")
            return True
        return False

    deployment.sql("INSERT INTO conversations (account_id) VALUES (1)")
    eventually_sync(advanced, "the slot is moved by hand")


def wait_new_epoch(deployment: Deployment, old: str, deadline: float = 30.0) -> str:
    """Wait until another epoch than `old` has begun; returns its identity."""
    return eventually_sync(
        lambda: deployment.epoch() if deployment.epoch() not in {"", old} else "", "a new epoch", deadline=deadline
    )


@contextmanager
def undecodable_slot(deployment: Deployment) -> Iterator[None]:
    """Have the slot that is created inside the block be one that PostgreSQL can't decode: see core/stuck.py.

    The block has to have begun creating it in the background; it is created when this ends.
    """
    deployment.sql("CREATE TABLE emptied (id int)")
    deployment.sql("CREATE TABLE elsewhere (id int)")
    with (
        psycopg.connect(deployment.dsn) as before,
        psycopg.connect(deployment.dsn) as empties,
        psycopg.connect(deployment.dsn) as writes,
    ):
        before.execute("INSERT INTO elsewhere VALUES (1)")
        yield
        _wait_creation_waits_for(deployment, before)
        empties.execute("TRUNCATE emptied")
        before.commit()
        _wait_creation_waits_for(deployment, empties)
        writes.execute("INSERT INTO elsewhere VALUES (2)")
        empties.commit()
        writes.execute("INSERT INTO emptied VALUES (3)")
        created = (
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'cdc_counter' AND confirmed_flush_lsn IS NOT NULL"
        )
        eventually_sync(lambda: deployment.sql(created), "the slot is created")
        writes.commit()


def _wait_creation_waits_for(deployment: Deployment, other: psycopg.Connection) -> None:
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%pg_create_logical_replication_slot%%'"
        " AND %s = ANY (pg_blocking_pids(pid))"
    )
    eventually_sync(lambda: deployment.sql(waits, other.info.backend_pid), "the slot's creation waits")
