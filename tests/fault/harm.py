"""What may happen to everything of ours while an application writes: each fault done, lasting, and undone.

A fault gets a scene in which all is well and writers write; it leaves one in which all will be well again. What must be
true of the writers meanwhile is asserted by whoever let them write.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault import losses
from tests.fault.deployment import COUNTERS, Deployment, wait_said
from tests.rig.daemon import PROGRAM, Daemon
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync
from tests.rig.writers import Writers, prepare

OUTBOX: Final = "cdc_counter.outbox"

LOCK_TIMEOUT_MS: Final = 100
"""`postgres.lock_timeout_ms` of the scene: its default."""

MAY_WAIT: Final = 5.0
"""Seconds. Where triggers are put on a table writers wait for LOCK_TIMEOUT_MS at the most and then for a transaction of
a few statements. How long those take is the machine's affair; that the lock is let go is ours."""

ADDED: Final = """
[[counter]]
name = "conversations_by_status"
table = "conversations"
by = "status"
"""


@dataclass
class Scene:
    """A deployment that runs, with servers of its own. `lasting` units are written while a fault lasts."""

    deployment: Deployment
    daemon: Daemon
    redis: RedisServer
    writers: Writers
    lasting: int = 40

    def last(self, share: float = 1.0) -> None:
        """Let the fault last: the writers go on."""
        self.writers.wait_for_more(max(1, int(self.lasting * share)))

    def wait_state(self, state: str, *counters: str) -> None:
        """Wait until these counters have a state."""
        wanted = dict.fromkeys(counters, state)
        eventually_sync(
            lambda: wanted.items() <= self.deployment.states().items(), f"{counters} are {state}", deadline=60
        )

    def wait_not_live(self, *counters: str) -> None:
        """Wait until each of these counters has been seen not live: each comes back until it misses the next write."""
        missing = set(counters)

        def all_seen() -> bool:
            states = self.deployment.states()
            missing.difference_update([name for name in missing if states[name] != "live"])
            return not missing

        eventually_sync(all_seen, f"{counters} are not live", deadline=60)

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Keep a transaction open that has done this."""
        with psycopg.connect(self.deployment.dsn, application_name="somebody") as holder:
            holder.execute(what.encode())
            yield
            holder.rollback()

    @contextmanager
    def running(self, *words: str, config: Path | None = None) -> Iterator[Daemon]:
        """Run another command beside; it must succeed in the end."""
        log = self.deployment.folder / f"{words[0]}.log"
        log.unlink(missing_ok=True)
        with Daemon(config or self.deployment.config, log, words=words, program=(PROGRAM,)) as process:
            process.start()
            yield process
            assert process.process.wait(120) == 0, process.log_text()

    @contextmanager
    def holding_up(self, process: Daemon, table: str) -> Iterator[None]:
        """Hold a table that a command wants to lock, until after the block; nothing where the command was quicker."""
        with self.held(f"DELETE FROM {table} WHERE false"):
            eventually_sync(
                lambda: not process.running or "waiting for" in process.log_text(), "the command waits", deadline=60
            )
            yield


def daemon_stopped(scene: Scene) -> None:
    scene.daemon.terminate()
    scene.last()
    scene.daemon.start()


def daemon_killed(scene: Scene) -> None:
    scene.daemon.kill()
    scene.last()
    scene.daemon.start()


def daemon_frozen_while_wal_is_retained(scene: Scene) -> None:
    scene.daemon.freeze()
    scene.deployment.sql("CREATE TABLE filler AS SELECT repeat(i::text, 100) FROM generate_series(1, 20000) AS i")
    scene.last()
    scene.deployment.sql("DROP TABLE filler")
    scene.daemon.thaw()


def redis_killed(scene: Scene) -> None:
    scene.redis.kill()
    scene.last()
    scene.redis.start()


def redis_emptied(scene: Scene) -> None:
    before = scene.deployment.epoch()
    losses.flush(scene.deployment)
    losses.wait_new_epoch(scene.deployment, before, 60)
    scene.last()


def slot_dropped(scene: Scene) -> None:
    scene.daemon.kill()
    losses.drop_slot(scene.deployment)
    scene.last()
    scene.daemon.start()


def slot_waits_for_a_long_transaction(scene: Scene) -> None:
    before = scene.deployment.epoch()
    with scene.held("SELECT pg_current_xact_id()"):
        losses.drop_slot(scene.deployment)
        eventually_sync(
            lambda: scene.deployment.sql(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND wait_event_type = 'Lock'",
                "%pg_create_logical_replication_slot%",
            ),
            "the slot's creation waits",
            deadline=60,
        )
        scene.last()
    losses.wait_new_epoch(scene.deployment, before, 60)


def column_about_to_be_dropped(scene: Scene) -> None:
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="other objects depend on it"):
        scene.deployment.sql("ALTER TABLE orders DROP COLUMN parts")
    scene.last()


def column_renamed(scene: Scene) -> None:
    scene.deployment.sql("ALTER TABLE orders RENAME COLUMN parts TO pieces")
    scene.wait_state("stale", "orders_by_ratio")
    scene.last()
    scene.deployment.sql("ALTER TABLE orders RENAME COLUMN pieces TO parts")


def value_that_can_not_be_counted(scene: Scene) -> None:
    scene.deployment.sql("INSERT INTO orders (shop, amount, parts) VALUES ('zero', 1, 0)")
    scene.wait_state("stale", "orders_by_ratio")
    scene.last()
    scene.deployment.sql("DELETE FROM orders WHERE parts = 0")


def outbox_renamed(scene: Scene) -> None:
    scene.deployment.sql(f"ALTER TABLE {OUTBOX} RENAME TO old")
    scene.last()
    scene.wait_state("stale", *scene.deployment.states())
    scene.deployment.sql("ALTER TABLE cdc_counter.old RENAME TO outbox")


def outbox_dropped(scene: Scene) -> None:
    scene.deployment.sql(f"DROP TABLE {OUTBOX} CASCADE")
    scene.last()
    scene.wait_state("stale", *scene.deployment.states())
    scene.daemon.terminate()
    scene.deployment.sql("DROP PUBLICATION cdc_counter")
    scene.deployment.init("--reseed")
    scene.daemon.start()


def outbox_locked(scene: Scene) -> None:
    with scene.held(f"LOCK TABLE {OUTBOX} IN ACCESS EXCLUSIVE MODE"):
        scene.last()
        scene.wait_not_live("orders_by_shop", "open_by_channel", "visits_by_page")


def partition_of_the_outbox_locked(scene: Scene) -> None:
    ((leaf,),) = scene.deployment.sql(
        f"SELECT tableoid::regclass::text FROM {OUTBOX} ORDER BY xid::text::bigint DESC LIMIT 1"
    )
    since = {name: scene.deployment.record(name)["since"] for name in scene.deployment.states()}
    with scene.held(f"LOCK TABLE {leaf} IN ACCESS EXCLUSIVE MODE"):
        scene.last()
    after = {name: scene.deployment.record(name)["since"] for name in scene.deployment.states()}
    assert after == since, "a counter was not live all the time"


def outbox_vacuumed_full(scene: Scene) -> None:
    for _ in range(3):
        scene.deployment.sql(f"VACUUM FULL {OUTBOX}")
        scene.last(0.3)


def triggers_disabled(scene: Scene) -> None:
    times = scene.daemon.log_text().count("captured whole again")
    scene.deployment.sql("ALTER TABLE visits DISABLE TRIGGER USER")
    scene.last()
    wait_said(scene.daemon, "captured whole again", times=times + 1)


def capture_function_replaced(scene: Scene) -> None:
    """By one that does nothing: what is lost is lost silently until the daemon looks."""
    times = scene.daemon.log_text().count("captured whole again")
    scene.deployment.sql(
        "DO $$ DECLARE f regprocedure; BEGIN"
        " SELECT oid INTO f FROM pg_proc WHERE proname LIKE 'capture_insert_orders_%';"
        " EXECUTE 'CREATE OR REPLACE FUNCTION ' || f"
        " || ' RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NULL; END'''; END $$"
    )
    wait_said(scene.daemon, "captured whole again", times=times + 1)
    scene.last()


def counter_added_and_removed_while_somebody_holds_the_table(scene: Scene) -> None:
    config = scene.deployment.write_config("added", counters=COUNTERS + ADDED)
    with scene.running("apply", config=config) as apply, scene.holding_up(apply, "conversations"):
        scene.last()
    with scene.running("apply"):
        scene.last()


def initialised_anew_over_many_rows(scene: Scene) -> None:
    scene.deployment.sql(
        "INSERT INTO conversations (account_id, channel_id) SELECT i % 5, i % 7 FROM generate_series(1, 50000) AS i"
    )
    scene.daemon.terminate()
    with scene.running("init", "--reseed"):
        scene.last()
    scene.daemon.start()
    scene.deployment.sql("DELETE FROM conversations WHERE id > 10000 AND note IS NULL")


def verified(scene: Scene) -> None:
    with scene.running("verify"):
        scene.last()


def dropped_and_installed_again(scene: Scene) -> None:
    scene.daemon.terminate()
    with scene.running("drop", "--yes") as drop, scene.holding_up(drop, "orders"):
        scene.last()
    scene.deployment.init()
    scene.daemon.start()


FAULTS: Final[dict[Callable[[Scene], None], float]] = {
    daemon_stopped: 0.0,
    daemon_killed: 0.0,
    daemon_frozen_while_wal_is_retained: 0.0,
    redis_killed: 0.0,
    redis_emptied: 0.0,
    slot_dropped: 0.0,
    slot_waits_for_a_long_transaction: 0.0,
    column_about_to_be_dropped: 0.0,
    column_renamed: 0.0,
    value_that_can_not_be_counted: 0.0,
    outbox_renamed: 0.0,
    outbox_dropped: 0.0,
    outbox_locked: 0.0,
    partition_of_the_outbox_locked: 0.0,
    outbox_vacuumed_full: 0.0,
    verified: 0.0,
    triggers_disabled: MAY_WAIT,
    capture_function_replaced: MAY_WAIT,
    counter_added_and_removed_while_somebody_holds_the_table: MAY_WAIT,
    initialised_anew_over_many_rows: MAY_WAIT,
    dropped_and_installed_again: MAY_WAIT,
}
"""Every fault, with the seconds that a writer may wait for a session of ours."""

LONG: Final = frozenset(
    {
        outbox_dropped,
        counter_added_and_removed_while_somebody_holds_the_table,
        initialised_anew_over_many_rows,
        dropped_and_installed_again,
    }
)
"""Those that run several commands."""


@contextmanager
def stage(server: PostgresServer, folder: Path) -> Iterator[Callable[[], Scene]]:
    """Install everything; give what makes a scene of it, with writers that do not write yet."""
    with (
        fresh_database(server) as dsn,
        RedisServer() as redis,
        Deployment(dsn, redis.url, folder) as deployment,
    ):
        prepare(dsn)
        settings = f"inspection_seconds = 0.5\nlock_timeout_ms = {LOCK_TIMEOUT_MS}"
        deployment.config = deployment.write_config("c", postgres=settings)
        deployment.init()
        daemon = deployment.daemon().start().wait_ready()
        yield lambda: Scene(deployment, daemon, redis, Writers(dsn))
