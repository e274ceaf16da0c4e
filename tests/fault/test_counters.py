"""One counter breaks: the write passes, the others stay exact, and the broken one says so and comes back."""

from collections.abc import Callable

import psycopg
import redis

from cdc_counter.core.lsn import Lsn
from cdc_counter.embedded import PostgresServer
from tests.fault.deployment import HONEST, Deployment, Traffic, command, fetch, honest_recount, wait_said
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.tallies import all_tallies, differences, end_of_wal, watermark

LIVE_AGAIN = "counter conversations is live"


def wait_for_state(deployment: Deployment, counter: str, state: str, deadline: float = 20.0) -> str:
    """Wait for a counter's state; returns the reason recorded with it."""
    eventually_sync(lambda: deployment.record(counter)["state"] == state, f"{counter} is {state}", deadline=deadline)
    return str(deployment.record(counter)["reason"])


def assert_exact_but_for(deployment: Deployment, *broken: str) -> None:
    """Compare every key of the other counters, which must be live."""
    goal = end_of_wal(deployment.dsn)
    eventually_sync(lambda: watermark(deployment.redis_url) >= goal, f"watermark at {goal}")
    others = HONEST.keys() - set(broken)
    assert {deployment.states()[name] for name in others} == {"live"}
    tallies = {key: value for key, value in all_tallies(deployment.redis_url).items() if key[0] in others}
    truth = honest_recount(deployment.dsn, without=frozenset(broken))
    assert len(truth) > 20
    assert differences(tallies, truth) == {}


def started(deployment: Deployment) -> Daemon:
    deployment.init()
    return deployment.daemon().start().wait_ready()


def test_a_tally_that_can_not_take_its_delta_is_put_aside_and_rebuilt(deployment18: Deployment) -> None:
    deployment = deployment18
    # Verifying would find the wrong number before a delta meets it.
    deployment.config = deployment.write_config("quiet", extra="[verify]\nshare = 0")
    daemon = started(deployment)
    with Traffic(deployment.dsn) as traffic, redis.Redis.from_url(deployment.redis_url) as client:
        traffic.wait_for_more()
        tally = "cdc:tally:conversations:-"

        def set_text() -> None:
            with client.pipeline() as both:
                both.delete(tally).set(tally, "x").execute()

        spoils: list[tuple[str, Callable[[], object]]] = [
            ("not a hash", set_text),
            ("64-bit range", lambda: client.hset(tally, "-", str(2**63 - 1))),
            ("no integer", lambda: client.hset(tally, "-", "many")),
        ]
        for reason, spoil in spoils:
            rebuilt = daemon.log_text().count(LIVE_AGAIN)
            spoil()
            # More than are deleted meanwhile.
            deployment.sql(
                "INSERT INTO conversations (account_id, channel_id) SELECT 1, 1 FROM generate_series(1, 1000)"
            )
            wait_said(daemon, reason)
            # Its state may be `live` still.
            wait_said(daemon, LIVE_AGAIN, rebuilt + 1)
            wait_for_state(deployment, "conversations", "live")
        traffic.wait_for_more()
        assert "counter open_by_channel is" not in daemon.log_text()
    deployment.assert_exact()
    assert daemon.log_text().count("streaming slot") == 1


def test_deltas_that_can_not_be_computed_let_the_write_pass(deployment18: Deployment) -> None:
    deployment = deployment18
    daemon = started(deployment)
    deployment.sql("INSERT INTO orders (shop, amount, parts) VALUES ('nan', 'NaN', 1), ('zero', 5, 0)")
    for counter, reason in (("amount_by_shop", "NaN"), ("orders_by_ratio", "division by zero")):
        wait_said(daemon, f"counter {counter} is stale: its capture failed")
        said = wait_for_state(deployment, counter, "stale")
        assert reason in said or "22" in said, said
        assert fetch(daemon, f"/v1/counters/{counter}")[1]["state"] == "stale"
    assert deployment.sql("SELECT count(*) FROM orders WHERE shop IN ('nan', 'zero')") == [(2,)]
    assert_exact_but_for(deployment, "amount_by_shop", "orders_by_ratio")
    shown = command("status", config=deployment.config)
    assert "amount_by_shop" in shown.stdout
    assert shown.returncode != 0
    # Not by this statement, which could not be counted either: by the rebuild that now can.
    deployment.sql("DELETE FROM orders WHERE shop IN ('nan', 'zero')")
    deployment.assert_exact(deadline=40)


def test_a_column_renamed_under_the_triggers_lets_writes_pass_until_it_has_its_name_again(
    deployment18: Deployment,
) -> None:
    deployment = deployment18
    daemon = started(deployment)
    deployment.sql("ALTER TABLE visits RENAME COLUMN page TO path")
    deployment.sql("INSERT INTO visits (path, region) VALUES ('page 1', 'eu')")
    wait_said(daemon, "counter visits_by_page is stale")
    deployment.sql("ALTER TABLE visits RENAME COLUMN path TO page")
    deployment.assert_exact()


def test_outbox_rows_that_are_copied_back_are_not_counted_again(deployment18: Deployment) -> None:
    deployment = deployment18
    started(deployment)
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more(50)
        copied = deployment.sql(
            "INSERT INTO cdc_counter.outbox (part, xid, deltas) SELECT part, xid, deltas FROM cdc_counter.outbox"
            " WHERE deltas <> '[]' RETURNING 1"
        )
        assert len(copied) > 20
        traffic.wait_for_more()
    deployment.assert_exact()


FORGED = (
    # As if the transaction had an identifier that no snapshot will ever see.
    '(pg_current_xact_id()::text::numeric + 4294967296) || \' [[999,"x","y"]]\'',
    "pg_current_xact_id() || ' [[' || repeat('[', 1000) || repeat(']', 1000) || ',\"a\",1.5]]'",
    "repeat('x', 3000000)",
    "'55P03 ' || repeat('999,', 20000) || '998'",
)


def test_forged_notices_change_no_number_and_stop_nothing(deployment18: Deployment) -> None:
    """Anybody may write a logical message: at most it has a counter recounted."""
    deployment = deployment18
    daemon = started(deployment)
    deployment.sql("INSERT INTO conversations (account_id) SELECT i % 40 FROM generate_series(1, 100) AS i")
    for content in FORGED:
        with psycopg.connect(deployment.dsn) as forger:
            forger.execute("INSERT INTO conversations (account_id) VALUES (1)")
            emit = f'SELECT pg_logical_emit_message(true, \'"cdc_counter"."outbox"\', {content})'
            forger.execute(emit.encode())
    wait_said(daemon, "no notices of ours")
    deployment.assert_exact()
    verified = command("verify", config=deployment.config)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert deployment.record("conversations")["state"] == "live"
    number, since = (deployment.record("conversations")[key] for key in ("id", "since"))
    deployment.sql(f"SELECT pg_logical_emit_message(true, '\"cdc_counter\".\"outbox\"', 'CDC01 {number}')")
    wait_said(daemon, "counter conversations is stale: its capture failed: the outbox could not be written (CDC01)")
    eventually_sync(lambda: deployment.record("conversations")["since"] > since, "it was marked")
    wait_for_state(deployment, "conversations", "live", deadline=60)
    deployment.assert_exact()
    assert daemon.log_text().count("streaming slot") == 1


def test_a_busy_neighbour_database_retains_no_wal_for_an_idle_one(
    deployment18: Deployment, postgres18: PostgresServer
) -> None:
    deployment = deployment18
    started(deployment)

    def retained_from() -> Lsn:
        ((lsn,),) = deployment.sql("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'cdc_counter'")
        return Lsn.parse(lsn)

    with psycopg.connect(postgres18.dsn(), autocommit=True) as neighbour:
        neighbour.execute(
            "SELECT pg_logical_emit_message(false, 'neighbour', repeat('x', 1000000)) FROM generate_series(1, 20)"
        )
        goal = end_of_wal(postgres18.dsn())
        eventually_sync(lambda: deployment.slot_position() >= goal, "the slot is confirmed beyond it")

        def released() -> bool:
            neighbour.execute("CHECKPOINT")
            return retained_from() >= goal

        eventually_sync(released, "its WAL is released", deadline=40)
