"""Tables that are not captured whole any more: the daemon sees it, mends what it may, and names the rest."""

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.fault.deployment import COUNTERS, Deployment, Traffic, command, fetch, wait_said
from tests.fault.test_counters import assert_exact_but_for, started, wait_for_state
from tests.rig.eventually import eventually_sync

REPLACE_FUNCTIONS = """
DO $$ DECLARE f regprocedure; BEGIN
    FOR f IN SELECT oid FROM pg_proc WHERE proname LIKE 'capture_%_visits_%' LOOP
        EXECUTE 'CREATE OR REPLACE FUNCTION ' || f
            || ' RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NULL; END'' ';
    END LOOP;
END $$
"""

HOLES = {
    "a partition that is made and written to directly": (
        "CREATE TABLE visits_us PARTITION OF visits FOR VALUES IN ('us')",
        "INSERT INTO visits_us VALUES ('page 1', 'us')",
    ),
    "a table with rows that becomes a partition": (
        "CREATE TABLE visits_us (page text NOT NULL, region text NOT NULL)",
        "INSERT INTO visits_us VALUES ('page 1', 'us'), ('page 2', 'us')",
        "ALTER TABLE visits ATTACH PARTITION visits_us FOR VALUES IN ('us')",
    ),
    "a partition that becomes a table and is written to": (
        "ALTER TABLE visits DETACH PARTITION visits_eu",
        "CREATE TABLE visits_eu_2 PARTITION OF visits FOR VALUES IN ('eu')",
        "INSERT INTO visits_eu VALUES ('page 1', 'eu')",
    ),
    "a partition that is dropped": (
        "CREATE TABLE visits_eu_2 (LIKE visits)",
        "INSERT INTO visits_eu_2 SELECT * FROM visits_eu WHERE page <> 'page 1'",
        "DROP TABLE visits_eu",
        "ALTER TABLE visits ATTACH PARTITION visits_eu_2 FOR VALUES IN ('eu')",
    ),
    "triggers that are disabled": (
        "ALTER TABLE visits_eu DISABLE TRIGGER USER",
        "DELETE FROM visits_eu WHERE page = 'page 1'",
    ),
    "triggers that are disabled and enabled as ordinary ones": (
        "ALTER TABLE visits DISABLE TRIGGER USER",
        "DELETE FROM visits WHERE page = 'page 1'",
        "ALTER TABLE visits ENABLE TRIGGER USER",
    ),
    "a trigger that is dropped": (
        "DROP TRIGGER zz_cdc_counter_delete ON visits",
        "DELETE FROM visits WHERE page = 'page 1'",
    ),
    "functions that are replaced": (
        REPLACE_FUNCTIONS,
        "DELETE FROM visits WHERE page = 'page 1'",
    ),
    "a column of another type": (
        "DROP VIEW cdc_counter.visits_by_page",
        "ALTER TABLE visits ALTER COLUMN page TYPE varchar(9) USING upper(page)",
    ),
    "a table that is dropped and made again": (
        "DROP TABLE visits CASCADE",
        "CREATE TABLE visits (page text NOT NULL, region text NOT NULL) PARTITION BY LIST (region)",
        "CREATE TABLE visits_eu PARTITION OF visits FOR VALUES IN ('eu')",
        "INSERT INTO visits SELECT 'page ' || i % 3, 'eu' FROM generate_series(1, 50) AS i",
    ),
}

EVERY_RUN = {
    "a table with rows that becomes a partition",
    "triggers that are disabled",
    "functions that are replaced",
    "a table that is dropped and made again",
}
"""The others are of the programme."""


def looking_often(config: Path) -> Path:
    """Let a daemon with this configuration see holes soon."""
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("[postgres]\n", "[postgres]\ninspection_seconds = 0.5\n"), encoding="utf-8")
    return config


@pytest.fixture
def deployment(deployment18: Deployment) -> Deployment:
    looking_often(deployment18.config)
    return deployment18


@pytest.mark.parametrize(
    "hole", [pytest.param(hole, marks=[pytest.mark.programme] * (hole not in EVERY_RUN)) for hole in HOLES]
)
def test_hole_in_capture_is_closed_by_the_daemon_and_its_table_counted_again(deployment: Deployment, hole: str) -> None:
    daemon = started(deployment)
    before = deployment.record("visits_by_page")["id"]
    untouched = deployment.record("open_by_channel")
    with psycopg.connect(deployment.dsn) as connection:
        # Together, so that the daemon can't close the hole before anything fell through it.
        for statement in HOLES[hole]:
            connection.execute(statement.encode())
    wait_said(daemon, "captured whole again")
    assert "counter visits_by_page is stale" in daemon.log_text()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        deployment.sql("INSERT INTO visits VALUES ('page 3', 'eu')")
    deployment.assert_exact(deadline=40)
    assert deployment.record("visits_by_page")["id"] > before
    assert deployment.record("open_by_channel")["id"] == untouched["id"]
    assert deployment.record("open_by_channel")["since"] == untouched["since"], "it was not live all the time"
    assert command("plan", config=deployment.config).returncode == 0
    assert daemon.log_text().count("streaming slot") == 1


@pytest.mark.programme
def test_daemon_with_an_old_configuration_mends_what_is_installed_and_nothing_else(deployment: Deployment) -> None:
    daemon = started(deployment)
    added = '[[counter]]\nname = "visits_by_region"\ntable = "visits"\nby = "region"\n'
    removed = COUNTERS.replace('[[counter]]\nname = "conversations"\ntable = "conversations"\n', "")
    config = deployment.write_config("new", counters=removed.replace("status = 'open'", "status = 'closed'") + added)
    assert command("apply", config=config).returncode == 0
    deployment.sql("ALTER TABLE visits DISABLE TRIGGER USER")
    deployment.sql("ALTER TABLE conversations DISABLE TRIGGER USER")
    wait_said(daemon, "captured whole again", times=2)
    eventually_sync(lambda: set(deployment.states().values()) == {"live"}, "every counter is live again")
    assert "visits_by_region" in deployment.states()
    assert "conversations" not in deployment.states()
    assert command("plan", config=config).returncode == 0


@pytest.mark.programme
def test_hole_that_the_daemon_may_not_close_is_named_with_its_remedy(deployment: Deployment) -> None:
    deployment.sql(
        "DO $$ BEGIN CREATE ROLE cdc_test_stream LOGIN REPLICATION;"
        " EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$"
    )
    deployment.init()
    for statement in (
        "GRANT USAGE ON SCHEMA cdc_counter TO cdc_test_stream",
        "GRANT SELECT ON ALL TABLES IN SCHEMA cdc_counter, public TO cdc_test_stream",
        "GRANT INSERT ON cdc_counter.outbox TO cdc_test_stream",
    ):
        deployment.sql(statement)
    limited = deployment.write_config("limited", dsn=make_conninfo(deployment.dsn, user="cdc_test_stream"))
    looking_often(limited)
    daemon = deployment.daemon("daemon", limited).start().wait_ready()
    deployment.sql("ALTER TABLE conversations DISABLE TRIGGER zz_cdc_counter_delete")
    eventually_sync(
        lambda: "it can't be mended from here" in deployment.record("open_by_channel")["reason"], "the remedy is said"
    )
    reason = wait_for_state(deployment, "open_by_channel", "stale")
    for words in ("conversations", "zz_cdc_counter_delete", "run this as the owner"):
        assert words in reason, reason
    assert fetch(daemon, "/v1/counters/open_by_channel/1")[1]["state"] == "stale"
    assert_exact_but_for(deployment, "open_by_channel", "conversations")
    shown = command("status", config=deployment.config)
    assert "zz_cdc_counter_delete" in shown.stdout
    assert command("apply", config=deployment.config).returncode == 0
    deployment.assert_exact()


def test_table_that_is_dropped_leaves_its_counter_stale_with_a_reason_until_it_is_removed(
    deployment: Deployment,
) -> None:
    started(deployment)
    deployment.sql("DROP TABLE visits CASCADE")
    eventually_sync(
        lambda: "take the counter out of the configuration" in deployment.record("visits_by_page")["reason"],
        "the remedy is said",
    )
    reason = wait_for_state(deployment, "visits_by_page", "stale")
    # A look that began before the drop and ended after it still sees the partition, and says what became of that.
    assert "visits was dropped" in reason or '"visits_eu" is no longer part of' in reason
    fewer = deployment.write_config("fewer", counters=COUNTERS[: COUNTERS.index('[[counter]]\nname = "visits')])
    assert command("apply", config=fewer).returncode == 0
    assert_exact_but_for(replace(deployment), "visits_by_page")
    assert "visits_by_page" not in deployment.states()


def test_table_that_somebody_holds_is_mended_when_it_is_let_go(deployment: Deployment) -> None:
    daemon = started(deployment)
    with psycopg.connect(deployment.dsn) as blocker:
        deployment.sql("ALTER TABLE orders DISABLE TRIGGER zz_cdc_counter_delete")
        blocker.execute("UPDATE orders SET weight = weight WHERE id = 1")
        wait_said(daemon, "waits for pid")
        deployment.sql("INSERT INTO orders (shop, amount) VALUES ('shop 1', 1)")
        blocker.commit()
    wait_said(daemon, "captured whole again")
    deployment.assert_exact(deadline=40)
