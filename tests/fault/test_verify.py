"""Verifying under load: no false alarms, every planted fault found with the right key and amount, and repaired."""

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psycopg
import pytest
import redis

from cdc_counter import wiring
from cdc_counter.config import load_config
from cdc_counter.core.verification import Verdict
from cdc_counter.runtime.verifier import UNCONFIRMED
from tests.fault.deployment import Deployment, Traffic, command, wait_said
from tests.rig.eventually import eventually_sync

QUIET = "[verify]\nshare = 0"
"""No continuous verifying: what a test sees, it asked for."""


@contextmanager
def held_open(dsn: str) -> Iterator[None]:
    """Keep a transaction open that has written, so that every snapshot has it in its list."""
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO visits VALUES ('held', 'eu')")
        yield
        connection.rollback()


def verified(config: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run `verify --json`; returns its exit code and what it printed."""
    done = command("verify", "--json", *words, config=config)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def repaired(config: Path) -> CompletedProcess[str]:
    """Run `repair`, which must succeed."""
    done = command("repair", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.programme15
def test_verifying_under_load_finds_every_key_equal(deployment: Deployment) -> None:
    """Four writers, one of them open all the time; the tallies always hold something that the snapshot can't see."""
    deployment.config = deployment.write_config("c", extra=QUIET)
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    keys = 0
    with Traffic(deployment.dsn, 4) as traffic, held_open(deployment.dsn):
        traffic.wait_for_more()
        for _ in range(15):
            report = asyncio.run(wiring.verify(load_config(daemon.config, {})))
            for one in report.verifications:
                verdicts[one.verdict] += 1
                reasons[one.reason] += 1
                keys += one.keys
                assert one.drifts == ()
    assert verdicts[Verdict.DRIFT] == 0
    assert verdicts[Verdict.EQUAL] > 80, reasons
    assert keys > 1000
    deployment.assert_exact()


@pytest.mark.programme15
def test_a_tally_changed_in_redis_is_named_shown_stale_and_repaired(deployment: Deployment) -> None:
    deployment.config = deployment.write_config("c", extra=QUIET)
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        with redis.Redis.from_url(deployment.redis_url, protocol=2) as client:
            client.hincrby("cdc:tally:open_by_channel:3", "5", 7)
            client.hset("cdc:tally:amount_by_shop:-", "shop of nobody", -1)
        code, found = verified(daemon.config)
        assert code == 1
        drifts = {one["counter"]: one["drifts"] for one in found["counters"] if one["drifts"]}
        assert {name: [(d["scope"], d["bucket"], d["difference"]) for d in keys] for name, keys in drifts.items()} == {
            "open_by_channel": [("3", "5", 7)],
            "amount_by_shop": [("-", "shop of nobody", -1)],
        }
        assert deployment.states()["open_by_channel"] == "stale"
        assert deployment.states()["conversations"] == "live"
        assert "scope '3' bucket '5'" in deployment.record("open_by_channel")["reason"]
        page = command("verify", "--counter", "open_by_channel", "--scope", "3", config=daemon.config)
        assert page.returncode == 1
        assert "+7" in page.stdout
        assert "cdc-counter repair" in page.stdout
        assert command("verify", "--counter", "open_by_channel", "--scope", "2", config=daemon.config).returncode == 0
        traffic.wait_for_more()
        repaired(daemon.config)
        assert verified(daemon.config)[0] == 0
    deployment.assert_exact()
    (amount, channel) = json.loads(command("repair", "--journal", "--json", config=daemon.config).stdout)[::-1]
    assert (channel["counter"], amount["counter"]) == ("open_by_channel", "amount_by_shop")
    ((scope, bucket, old, new),) = channel["changes"]
    assert (scope, bucket, int(old) - int(new)) == ("3", "5", 7)
    assert "@" in channel["by"]


def test_verify_and_repair_work_where_no_daemon_runs(deployment18: Deployment) -> None:
    deployment18.init()
    with redis.Redis.from_url(deployment18.redis_url, protocol=2) as client:
        client.hincrby("cdc:tally:conversations:-", "-", -2)
    code, found = verified(deployment18.config, "--counter", "conversations")
    assert code == 1
    assert [one["drifts"][0]["difference"] for one in found["counters"]] == [-2]
    with Traffic(deployment18.dsn):
        repaired(deployment18.config)
        assert verified(deployment18.config)[0] == 0
    deployment18.daemon().start()
    deployment18.assert_exact()


CHURNED = """
[[counter]]
name = "things_by_key"
table = "things"
by = "key"
[[counter]]
name = "things_by_scope"
table = "things"
scope = "key"
"""


def churn(dsn: str, seed: int, stop: threading.Event) -> None:
    """Make keys vanish and come back all the time, a few in a transaction."""
    chance = random.Random(seed)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET deadlock_timeout = '50ms'")
        while not stop.is_set():
            keys = sorted(chance.sample(range(6000), 20))
            time.sleep(0.05)  # a rate, not a wait: the machine is shared with what is tested
            with contextlib.suppress(psycopg.errors.DeadlockDetected):
                connection.execute("DELETE FROM things WHERE key = ANY(%s)", [keys])
                connection.execute("INSERT INTO things SELECT unnest(%s::int[])", [keys[::2]])


@pytest.mark.programme
def test_keys_that_vanish_and_come_back_under_the_scan_are_no_drift(deployment18: Deployment) -> None:
    """A hash too large to be read at once, and thousands of hashes: both are scanned while they change."""
    deployment18.sql("CREATE TABLE things (key int)")
    deployment18.sql("INSERT INTO things SELECT generate_series(0, 5999)")
    deployment18.sql("CREATE INDEX ON things (key)")
    deployment18.config = deployment18.write_config("c", extra=QUIET, counters=CHURNED)
    deployment18.init()
    daemon = deployment18.daemon().start().wait_ready()
    stop = threading.Event()
    writers = [threading.Thread(target=churn, args=[deployment18.dsn, n, stop]) for n in range(3)]
    for writer in writers:
        writer.start()
    try:
        reports = [asyncio.run(wiring.verify(load_config(daemon.config, {}))) for _ in range(8)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    found = [one for report in reports for one in report.verifications]
    assert [one.reason for one in found if one.verdict is Verdict.DRIFT or one.reason.startswith(UNCONFIRMED)] == []
    equal = [one for one in found if one.verdict is Verdict.EQUAL]
    assert len(equal) > 10, Counter(one.reason for one in found)
    assert min(one.keys for one in equal) > 2000


def test_one_wrong_key_of_a_large_hash_is_found(deployment18: Deployment) -> None:
    deployment18.sql("CREATE TABLE things (key int)")
    deployment18.sql("INSERT INTO things SELECT generate_series(0, 5999)")
    deployment18.config = deployment18.write_config("c", extra=QUIET, counters=CHURNED)
    deployment18.init()
    daemon = deployment18.daemon().start().wait_ready()
    with redis.Redis.from_url(deployment18.redis_url, protocol=2) as client:
        client.hdel("cdc:tally:things_by_key:-", "4711")
        client.delete("cdc:tally:things_by_scope:4712")
        client.hset("cdc:tally:things_by_scope:9999", "-", 3)
    _, found = verified(daemon.config)
    assert {
        one["counter"]: [(d["scope"], d["bucket"], d["difference"]) for d in one["drifts"]] for one in found["counters"]
    } == {
        "things_by_key": [("-", "4711", -1)],
        "things_by_scope": [("4712", "-", -1), ("9999", "-", 3)],
    }
    assert {one["keys"] for one in found["counters"]} == {6000, 6001}


@pytest.mark.programme
def test_verifying_waits_until_the_tallies_hold_what_the_snapshot_sees(deployment18: Deployment) -> None:
    """The server's sending process stands still: rows are committed and not streamed."""
    deployment18.config = deployment18.write_config("c", extra=QUIET)
    deployment18.init()
    daemon = deployment18.daemon().start().wait_ready()
    walsender = deployment18.walsender()
    assert walsender is not None
    os.kill(walsender, signal.SIGSTOP)
    try:
        deployment18.sql("INSERT INTO conversations (account_id, channel_id) SELECT 1, 1 FROM generate_series(1, 9)")
        with ThreadPoolExecutor() as beside:
            verifying = beside.submit(verified, daemon.config, "--counter", "conversations")
            wait_said(daemon, "asks to verify conversations")
            # It has the snapshot as soon as its heartbeat is committed, and the stream's first row is not sent yet.
            eventually_sync(lambda: deployment18.sql(BACKENDS_IN_SNAPSHOT) != [], "the recount's snapshot")
            # Long enough for a verdict, had it not waited.
            early = wait_for_futures([verifying], timeout=4).done
            os.kill(walsender, signal.SIGCONT)
            code, found = verifying.result(60)
    finally:
        os.kill(walsender, signal.SIGCONT)
    assert early == set()
    assert code == 0, found
    assert [one["reason"] for one in found["counters"]] == [""]


BACKENDS_IN_SNAPSHOT = """
SELECT pid FROM pg_stat_activity
WHERE application_name = 'cdc-counter recount' AND state = 'idle in transaction' AND backend_xmin IS NOT NULL
"""
