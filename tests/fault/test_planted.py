"""The detectors detect: every way to make a number wrong is found by continuous verifying, with key and amount.

Each fault is planted on a running system under load; how long it takes until it is found is in the report of the run
(`pytest -rP`), not asserted.
"""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import psycopg
import pytest
import redis

from cdc_counter.errors import ExitCode
from tests.fault.deployment import Deployment, Traffic, command, wait_said
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.warm import WARM

ALWAYS = "[verify]\nshare = 1.0\ninterval_seconds = 0.2"

Drift = dict[tuple[str, str, str], int]
"""(counter, scope, bucket) -> what the tally has too much."""


class Detector:
    """A deployment with a daemon that verifies all the time, and writers."""

    def __init__(self, deployment: Deployment, daemon: Daemon, folder: Path, traffic: Traffic) -> None:
        self.traffic = traffic
        self.deployment = deployment
        self.daemon = daemon
        self.folder = folder

    def drift(self) -> Drift:
        """Return what the last verifications found."""
        found: Drift = {}
        with redis.Redis.from_url(self.deployment.redis_url, protocol=2) as client:
            for text in client.hvals("cdc:verified"):
                one = json.loads(text)
                for key in one["drifts"]:
                    found[one["counter"], key["scope"], key["bucket"]] = key["difference"]
        return found

    def must_find(self, expected: Drift, since: float) -> None:
        """Wait until exactly this drift is found, and its counters are stale; say how long it took."""
        eventually_sync(lambda: self.drift() == expected, f"drift {expected} is found", deadline=60)
        report(f"found {len(expected)} keys after {time.monotonic() - since:.2f} s")
        states = self.deployment.states()
        assert {name for name, state in states.items() if state == "stale"} == {counter for counter, _, _ in expected}
        status = command("status", config=self.daemon.config)
        assert status.returncode == 1
        for counter, scope, bucket in expected:
            assert f"counter {counter} is stale: drift at" in status.stdout
            assert f"scope {scope!r} bucket {bucket!r}" in status.stdout

    def repair(self) -> None:
        """Repair under load, and prove that everything is exact."""

        def conclusive() -> CompletedProcess[str] | None:
            done = command("repair", config=self.daemon.config)
            # The daemon may rebuild a counter of its own accord: it sees triggers that are off, too.
            return None if done.returncode == ExitCode.INCONCLUSIVE else done

        repaired = eventually_sync(conclusive, "a repair that is conclusive", deadline=60)
        assert repaired is not None
        assert repaired.returncode == 0, repaired.stdout + repaired.stderr
        self.must_be_exact()

    def must_be_exact(self) -> None:
        """End the traffic and compare every key."""
        self.traffic.stop()
        self.deployment.assert_exact()
        assert self.drift() == {}

    def sabotage(self, kind: str) -> tuple[str, str, str, int]:
        """Have the next delta dropped or doubled; returns (counter, scope, bucket, delta)."""
        (self.folder / kind).touch()
        done = self.folder / f"{kind}.done"
        eventually_sync(done.exists, f"a delta to {kind}", deadline=30)
        number, scope, bucket, delta = json.loads(done.read_text(encoding="utf-8"))
        names = {int(self.deployment.record(name)["id"]): name for name in self.deployment.states()}
        return names[number], scope, bucket, delta

    def write_unseen(self, table: str, statement: str) -> None:
        """Write in a transaction that disables our triggers and enables them again: nobody can see it afterwards."""
        events = ("insert", "update", "delete", "truncate")
        enable = [f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER zz_cdc_counter_{event}" for event in events]
        self.sql(f"ALTER TABLE {table} DISABLE TRIGGER USER", statement, *enable)

    def sql(self, *statements: str) -> None:
        """Run statements in one transaction."""
        with psycopg.connect(self.deployment.dsn) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@pytest.fixture
def detector(deployment18: Deployment, tmp_path: Path) -> Iterator[Detector]:
    """Install, run a daemon that can be sabotaged, and write all the time."""
    deployment18.config = deployment18.write_config("c", extra=ALWAYS)
    deployment18.init()
    with sabotaged(deployment18, tmp_path) as daemon, Traffic(deployment18.dsn) as traffic:
        traffic.wait_for_more()
        yield Detector(deployment18, daemon, tmp_path, traffic)


@contextmanager
def sabotaged(deployment: Deployment, folder: Path) -> Iterator[Daemon]:
    """Run a daemon that does what files in the folder say."""
    like = deployment.daemon()
    program = (WARM, "tests.rig.sabotage", str(folder))
    with Daemon(like.config, like.log, port=like.port, program=program) as daemon:
        yield daemon.start().wait_ready()


def test_a_tally_changed_in_redis_is_found(detector: Detector) -> None:
    since = time.monotonic()
    with redis.Redis.from_url(detector.deployment.redis_url, protocol=2) as client:
        client.hincrby("cdc:tally:open_by_channel:3", "5", 7)
        client.hincrby("cdc:tally:open_by_channel:nobody", "<b>", -1)
    detector.must_find({("open_by_channel", "3", "5"): 7, ("open_by_channel", "nobody", "<b>"): -1}, since)
    detector.repair()


@pytest.mark.parametrize(("kind", "factor"), [("drop", -1), ("twice", 1)])
def test_a_delta_that_we_lose_or_apply_twice_is_found(detector: Detector, kind: str, factor: int) -> None:
    since = time.monotonic()
    counter, scope, bucket, delta = detector.sabotage(kind)
    detector.must_find({(counter, scope, bucket): factor * delta}, since)
    detector.repair()


def test_rows_written_with_a_trigger_disabled_are_found(detector: Detector) -> None:
    since = time.monotonic()
    detector.write_unseen("orders", "INSERT INTO orders (shop, amount) VALUES ('unseen', 12.34), ('unseen', 1)")
    detector.must_find(
        {
            ("orders_by_shop", "-", "unseen"): -2,
            ("amount_by_shop", "-", "unseen"): -1334,
            ("orders_by_ratio", "-", "10"): -2,
        },
        since,
    )
    detector.repair()


def test_a_leaf_written_with_its_triggers_off_is_found(detector: Detector) -> None:
    since = time.monotonic()
    detector.write_unseen("visits_eu", "INSERT INTO visits_eu VALUES ('unseen', 'eu')")
    detector.must_find({("visits_by_page", "-", "unseen"): -1}, since)
    detector.repair()


def test_a_forged_outbox_row_is_found(detector: Detector) -> None:
    number = detector.deployment.record("conversations")["id"]
    since = time.monotonic()
    detector.sql(
        f'INSERT INTO cdc_counter.outbox (xid, deltas) VALUES (pg_current_xact_id(), \'[[{number},"-","-",5]]\')'
    )
    detector.must_find({("conversations", "-", "-"): 5}, since)
    detector.repair()


def test_a_restored_outbox_row_is_not_counted_again_and_named(detector: Detector) -> None:
    """It carries the transaction that it came from, not the one that restores it."""
    detector.sql("INSERT INTO cdc_counter.outbox SELECT * FROM cdc_counter.outbox WHERE deltas <> '[]' LIMIT 20")
    said = re.compile(r"(\d+) outbox rows were copied back or restored")
    eventually_sync(lambda: sum(map(int, said.findall(detector.daemon.log_text()))) == 20, "all of them are named")
    detector.must_be_exact()


def test_transactions_applied_again_from_a_watermark_moved_back_are_found(detector: Detector) -> None:
    """Back to where the slot stands, so that no gap shows: the server sends what was applied already."""
    deployment, daemon = detector.deployment, detector.daemon

    def killed_between_apply_and_confirm() -> bool:
        daemon.start() if not daemon.running else None
        eventually_sync(lambda: deployment.walsender() is not None, "it streams")
        daemon.kill()
        eventually_sync(lambda: deployment.walsender() is None, "the slot is free")
        return watermark(deployment) > deployment.slot_position().version

    eventually_sync(killed_between_apply_and_confirm, "a kill between apply and confirm", deadline=120)
    with redis.Redis.from_url(deployment.redis_url, protocol=2) as client:
        client.hset("cdc:meta", mapping={"watermark": deployment.slot_position().version, "partial": ""})
    since = time.monotonic()
    daemon.start()
    eventually_sync(lambda: bool(detector.drift()), "drift is found", deadline=60)
    report(f"found {len(detector.drift())} keys after {time.monotonic() - since:.2f} s, with the start")
    detector.repair()


def report(figure: str) -> None:
    """Leave a figure in the report of the run."""
    print(figure)  # noqa: T201 - shown by `pytest -rP`


def watermark(deployment: Deployment) -> str:
    """Return the stored watermark."""
    with redis.Redis.from_url(deployment.redis_url, protocol=2) as client:
        return (client.hget("cdc:meta", "watermark") or b"").decode()


@pytest.mark.parametrize(
    ("moment", "repairs"),
    [("die-before-repair", 0), ("die-after-repair", 1)],
)
@pytest.mark.programme
def test_a_repair_that_is_killed_half_way_is_done_once_or_not_at_all(
    detector: Detector, moment: str, repairs: int
) -> None:
    with redis.Redis.from_url(detector.deployment.redis_url, protocol=2) as client:
        client.hincrby("cdc:tally:open_by_channel:3", "5", 7)
        client.hincrby("cdc:tally:open_by_channel:4", "6", 1)
        detector.must_find({("open_by_channel", "3", "5"): 7, ("open_by_channel", "4", "6"): 1}, time.monotonic())
        (detector.folder / moment).touch()
        with ThreadPoolExecutor() as beside:
            asking = beside.submit(command, "repair", config=detector.daemon.config)
            detector.daemon.process.wait(30)
            assert client.xlen("cdc:repairs") == repairs
            detector.daemon.start()
            # Whoever asked is told that nobody answers, or finds the next process at work.
            assert asking.result(60).returncode in {0, 4}
        detector.repair()
        ((_, entry),) = client.xrange("cdc:repairs")
    assert [change[:2] for change in json.loads(entry[b"changes"])] == [["3", "5"], ["4", "6"]]


def test_drift_is_subtracted_at_once_where_that_is_wanted(deployment18: Deployment) -> None:
    deployment18.config = deployment18.write_config("c", extra=f"{ALWAYS}\nrepair = true")
    deployment18.init()
    daemon = deployment18.daemon().start().wait_ready()
    with Traffic(deployment18.dsn) as traffic, redis.Redis.from_url(deployment18.redis_url, protocol=2) as client:
        traffic.wait_for_more()
        client.hincrby("cdc:tally:open_by_channel:3", "5", 7)
        eventually_sync(lambda: client.xlen("cdc:repairs") == 1, "it is repaired")
        wait_said(daemon, "counter open_by_channel is right again")
    deployment18.assert_exact()
    (entry,) = json.loads(command("repair", "--journal", "--json", config=daemon.config).stdout)
    assert (entry["counter"], entry["by"]) == ("open_by_channel", "continuous verifying")


def test_more_wrong_keys_than_one_step_may_mend_are_counted_anew(deployment18: Deployment) -> None:
    deployment18.config = deployment18.write_config("c", extra=f"{ALWAYS}\n[stream]\nmax_batch_keys = 10")
    deployment18.init()
    daemon = deployment18.daemon().start().wait_ready()
    with redis.Redis.from_url(deployment18.redis_url, protocol=2) as client:
        client.hset("cdc:tally:open_by_channel:nobody", mapping={str(number): 1 for number in range(11)})
    wait_said(daemon, "counter open_by_channel is wrong")
    done = command("repair", "--counter", "open_by_channel", config=daemon.config)
    assert done.returncode == 1
    assert "11 keys are wrong: the counter is rebuilt instead" in done.stdout
    deployment18.assert_exact()


def test_a_seed_whose_count_is_broken_off_starts_again_from_nothing(deployment18: Deployment, tmp_path: Path) -> None:
    """What reached its hidden tallies before is in the second snapshot, too."""
    # Nobody else counts: the first count is a seed's.
    deployment18.config = deployment18.write_config("c", extra="[verify]\nshare = 0")
    deployment18.init()
    with sabotaged(deployment18, tmp_path), Traffic(deployment18.dsn) as traffic:
        traffic.wait_for_more()
        (tmp_path / "fail-count").touch()
        with redis.Redis.from_url(deployment18.redis_url, protocol=2) as client:
            client.flushall()
        eventually_sync((tmp_path / "fail-count.done").exists, "a count is broken off", deadline=30)
        eventually_sync(lambda: set(deployment18.states().values()) == {"live"}, "every counter is live", deadline=60)
        traffic.stop()
        deployment18.assert_exact()
