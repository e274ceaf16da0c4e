"""The rules that no server of this machine can break: versions that are not installed."""

from dataclasses import replace
from typing import Any

import pytest

from cdc_counter.config import PostgresSettings, RedisSettings
from cdc_counter.core.durability import Policy
from cdc_counter.core.finding import Severity
from cdc_counter.postgres.readiness_rules import judge_open_transactions, judge_server, judge_tables
from cdc_counter.postgres.server_facts import OpenTransaction, ServerFacts, TableFact
from cdc_counter.tallies.readiness import RedisFacts, judge

GOOD = ServerFacts(
    version_number=180006,
    version="18.6",
    in_recovery=False,
    read_only=False,
    wal_level="logical",
    fsync=True,
    max_slot_wal_keep_size="50GB",
    idle_slot_timeout="0",
    plugins_listed=True,
    synchronized_standby_slots="",
    encoding="UTF8",
    database="shop",
    role="owner",
    may_create=True,
    system_identifier="7",
    rds_role=None,
    max_slots=10,
    used_slots=1,
    inactive_slots=(),
    slot_exists=False,
    physical_slots=(),
    max_senders=10,
    used_senders=1,
    schema_owner=None,
    backend_pid=1,
)

GOOD_REDIS = RedisFacts(
    version="7.2.4",
    role="master",
    cluster=False,
    policy="noeviction",
    used_memory=79,
    maxmemory=100,
    appendonly=True,
)


def titles(facts: ServerFacts, settings: PostgresSettings | None = None) -> list[str]:
    return [finding.title for finding in judge_server(facts, settings or PostgresSettings())]


def remedies(facts: ServerFacts) -> list[str]:
    return [finding.remedy for finding in judge_server(facts, PostgresSettings())]


def test_good_server_has_no_findings() -> None:
    assert titles(GOOD) == []


def test_version_14_is_refused_with_the_reason() -> None:
    [finding] = judge_server(replace(GOOD, version_number=140018, version="14.18"), PostgresSettings())
    assert finding.severity is Severity.ERROR
    assert "14.18 is too old" in finding.title
    assert "start position" in finding.title


@pytest.mark.parametrize(("number", "version"), [(170005, "17.5"), (160009, "16.9"), (150013, "15.13")])
def test_minor_release_that_can_lose_rows_is_warned_about(number: int, version: str) -> None:
    [title] = titles(replace(GOOD, version_number=number, version=version))
    assert title == f"PostgreSQL {version} can lose rows in logical decoding when a publication is changed"


@pytest.mark.parametrize(("number", "version"), [(180000, "18.0"), (170006, "17.6"), (160010, "16.10")])
def test_minor_release_that_loses_nothing_is_not(number: int, version: str) -> None:
    assert titles(replace(GOOD, version_number=number, version=version)) == []


def test_server_that_loads_any_output_plugin_is_warned_about_with_the_release_that_does_not() -> None:
    assert remedies(replace(GOOD, version_number=170010, version="17.10", plugins_listed=False)) == [
        "upgrade to 17.11 or later"
    ]


@pytest.mark.parametrize(("number", "warned"), [(180005, True), (180006, False), (150018, False)])
def test_what_the_role_may_not_see_is_judged_by_the_release(number: int, warned: bool) -> None:
    assert bool(titles(replace(GOOD, version_number=number, plugins_listed=None))) is warned


@pytest.mark.parametrize(("megabytes", "words"), [(0, "is off"), (100, "acts only while 'run' runs")])
def test_who_guards_the_disk_is_said_where_the_server_does_not(megabytes: int, words: str) -> None:
    settings = PostgresSettings(fuse_wal_mb=megabytes)
    [title] = titles(replace(GOOD, max_slot_wal_keep_size="-1"), settings)
    assert words in title
    assert "fills the server's disk" in title


def test_amazon_is_told_of_its_own_switch() -> None:
    assert remedies(replace(GOOD, wal_level="replica", rds_role="rds_replication")) == [
        "set rds.logical_replication = 1 in the parameter group, then reboot the instance"
    ]


def test_server_without_a_free_slot_passes_when_the_slot_is_ours_already() -> None:
    full = replace(GOOD, used_slots=10)
    assert titles(full) == ["no replication slot is free: 10 of 10 in use"]
    assert titles(replace(full, slot_exists=True)) == []


def test_remedies_quote_odd_names() -> None:
    odd = replace(GOOD, database='my "db"', role="o'owner", may_create=False)
    assert remedies(odd) == ['GRANT CREATE ON DATABASE "my ""db""" TO "o\'owner";']
    [finding] = judge_open_transactions([OpenTransaction(None, "it's", "db", "r", "prepared", 3.0)])
    assert finding.remedy.startswith("ROLLBACK PREPARED 'it''s';")
    [finding] = judge_tables([TableFact('"T"', "app role", owned=False, rows_hidden=False)], "me")
    assert finding.remedy.startswith('GRANT "app role" TO "me";')


def test_unset_failover_is_no_concern_without_a_standby() -> None:
    standby = replace(GOOD, physical_slots=("a", "b"))
    assert len(titles(standby)) == 1
    assert "'a,b'" in remedies(standby)[0]
    assert titles(standby, PostgresSettings(failover=False)) == []
    assert titles(replace(standby, synchronized_standby_slots="a,b")) == []


def test_good_redis_has_no_findings() -> None:
    assert list(judge(GOOD_REDIS, RedisSettings())) == []


def test_old_redis_is_refused() -> None:
    [finding] = judge(replace(GOOD_REDIS, version="6.0.16"), RedisSettings())
    assert (finding.severity, finding.title) == (Severity.ERROR, "Redis 6.0.16 is too old")


def test_version_numbers_compare_as_numbers() -> None:
    assert list(judge(replace(GOOD_REDIS, version="6.10.0"), RedisSettings())) == []
    assert list(judge(replace(GOOD_REDIS, version="10.0.1"), RedisSettings())) == []


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        (RedisSettings(confirm=Policy.REPLICATED, confirm_replicas=2), {"replicas": 1}, "waits for 2 replicas"),
        (RedisSettings(confirm=Policy.FSYNCED), {"version": "8.2.3", "replicas": 0}, "waits for 1 replicas"),
        (RedisSettings(confirm=Policy.FSYNCED), {"version": "7.0.15", "replicas": 1}, "came with Redis 7.2"),
        (
            RedisSettings(confirm=Policy.FSYNCED, confirm_replicas=0),
            {"version": "7.2.4", "appendonly": False},
            "there is no file to sync",
        ),
    ],
)
def test_a_confirm_policy_that_can_not_be_kept_is_refused(
    settings: RedisSettings, changes: dict[str, Any], words: str
) -> None:
    findings = list(judge(replace(GOOD_REDIS, **changes), settings))
    assert [words in finding.title for finding in findings if finding.severity is Severity.ERROR] == [True]


def test_a_confirm_policy_that_can_be_kept_has_no_findings() -> None:
    facts = replace(GOOD_REDIS, version="7.2.4", replicas=1)
    for policy in Policy:
        assert list(judge(facts, RedisSettings(confirm=policy))) == []
