"""One consumer after the other, and one against the other, while everything around them dies: exact every time."""

import sys
import time
from functools import partial
from typing import Any, Literal

import psycopg
import pytest
import redis

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment, Traffic, command, wait_said
from tests.fault.link import fault_link
from tests.fault.losses import end_walsender, flush, wait_new_epoch
from tests.rig.daemon import PROGRAM, Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.tallies import end_of_wal, watermark


def wait_moving(deployment: Deployment) -> None:
    """Wait until something that is committed from now on is applied."""
    goal = end_of_wal(deployment.dsn)
    eventually_sync(lambda: watermark(deployment.redis_url) >= goal, f"watermark at {goal}", deadline=30)


def lost(daemon: Daemon, call: str = "") -> int:
    """Return how many calls of Redis, or of this kind, had no answer."""
    return daemon.log_text().count(f"redis: {call}")


def test_a_stand_by_takes_over_whether_the_consumer_is_killed_stopped_or_frozen(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    one, two = deployment.daemon("one"), deployment.daemon("two")
    one.start().wait_ready()
    two.start()
    wait_said(two, "standing by")
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        one.kill()
        wait_said(two, "streaming slot", 1)
        one.start()
        wait_said(one, "standing by")
        assert two.terminate() == 0
        wait_said(one, "streaming slot", 2)
        two.start()
        wait_said(two, "standing by", 2)

        traffic.wait_for_more()
        one.freeze()
        end_walsender(deployment)
        wait_said(two, "streaming slot", 2)
        wait_moving(deployment)
        # What it had received and not applied is applied by the other by now.
        one.thaw()
        wait_said(one, "standing by", 2)
        traffic.wait_for_more()
    deployment.assert_exact()
    assert one.running
    assert two.running


def test_a_stop_leaves_the_slot_where_the_tallies_are(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        assert daemon.terminate() == 0
    assert deployment.slot_position() == watermark(deployment.redis_url)


def test_lost_replies_lost_calls_and_silence_of_redis_change_nothing(
    deployment18: Deployment, redis_server: RedisServer
) -> None:
    deployment = deployment18
    deployment.init()
    with fault_link(redis_server.port) as link:
        config = deployment.write_config("proxied", redis_url=f"redis://127.0.0.1:{link.port}/0")
        daemon = deployment.daemon("consumer", config, "--role", "consumer").start()
        wait_said(daemon, "streaming slot", 1)
        with Traffic(deployment.dsn) as traffic:
            for number in range(14):
                direction: Literal["to", "from"] = "from" if number % 2 else "to"
                # Replies have 17 bytes: these end in the middle of one.
                link.cut_after(1 + 17 * number, direction)
                eventually_sync(partial(link.was_cut, direction), "a call or its reply was cut")
                # Each time another batch, with deltas: the first may be a heartbeat, which can be applied twice.
                wait_moving(deployment)
                traffic.wait_for_more(3)
            assert lost(daemon, "applying deltas") > 0, "the cuts went to other calls"
            before = lost(daemon)
            link.hold()
            traffic.wait_for_more()
            # After as long as a reply is waited for.
            wait_said(daemon, "redis: ", before + 1)
            link.pass_on()
            wait_moving(deployment)
        deployment.assert_exact()
        assert daemon.log_text().count("streaming slot") == 1, "the stream was ended for Redis's sake"
        assert daemon.terminate() == 0


@pytest.mark.programme15
def test_servers_that_crash_and_stop_are_awaited(
    postgres: PostgresServer, deployment: Deployment, redis_server: RedisServer
) -> None:
    deployment.init()
    patient = deployment.write_config("patient", postgres="wal_sender_timeout_seconds = 300")
    daemon = deployment.daemon("daemon", patient).start().wait_ready()
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        postgres.kill()
        postgres.start()
        wait_said(daemon, "streaming slot", 2)
        traffic.wait_for_more()
        # A walsender waits for its client's word; a silent one would hold this up until wal_sender_timeout.
        postgres.stop("fast", timeout=120)
        postgres.start()
        wait_said(daemon, "streaming slot", 3)
        traffic.wait_for_more()
        redis_server.kill()
        traffic.wait_for_more(100)
        redis_server.start()
        wait_moving(deployment)
        redis_server.kill()
        redis_server.start()
        wait_moving(deployment)
        traffic.wait_for_more()
    deployment.assert_exact()
    daemon.wait_ready()
    assert daemon.terminate() == 0
    assert deployment.slot_position() == watermark(deployment.redis_url)


def test_wall_clock_that_jumps_decides_nothing(deployment18: Deployment) -> None:
    """Positions decide what is applied, the monotonic clock what is waited for."""
    deployment = deployment18
    deployment.init()
    program = (sys.executable, "-m", "tests.rig.clock")
    daemon = deployment.daemon("consumer", None, "--role", "consumer", program=program).start()
    wait_said(daemon, "streaming slot")
    with Traffic(deployment.dsn) as traffic:
        traffic.wait_for_more()
        end_walsender(deployment)
        wait_said(daemon, "streaming slot", 2)
        traffic.wait_for_more()
        epoch = deployment.epoch()
        flush(deployment)
        wait_new_epoch(deployment, epoch)
        traffic.wait_for_more()
    deployment.assert_exact()
    # As slow to start as a command is: the consumer of the new epoch has reported by then, or it would count as dead.
    verified = command("verify", config=deployment.config, program=(PROGRAM,))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert daemon.terminate() == 0
    assert deployment.slot_position() == watermark(deployment.redis_url)


@pytest.mark.programme
def test_connection_that_became_a_black_hole_does_not_keep_the_slot(
    deployment18: Deployment, postgres18: PostgresServer
) -> None:
    """The server gives up on it after the time that we ask for, not after its own minute."""
    deployment = deployment18
    deployment.init()
    epoch = deployment.epoch()
    with fault_link(postgres18.port) as link:
        through = deployment.dsn.replace(f":{postgres18.port}/", f":{link.port}/")
        config = deployment.write_config("proxied", dsn=through, postgres="wal_sender_timeout_seconds = 5")
        one, two = deployment.daemon("one", config).start().wait_ready(), deployment.daemon("two").start()
        wait_said(two, "standing by")
        with Traffic(deployment.dsn) as traffic:
            traffic.wait_for_more()
            link.black_hole()
            wait_said(two, "streaming slot", deadline=50)
            wait_moving(deployment)
            link.pass_on()
            # It has heard nothing for long, and looks again.
            wait_said(one, "standing by", deadline=60)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert [daemon.log_text().count("streaming slot") for daemon in (one, two)] == [1, 1]
    assert deployment.epoch() == epoch, "something was lost, and counted again"


def test_commits_that_are_none_of_ours_cost_few_calls_of_redis(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.sql("CREATE TABLE elsewhere (id int)")
    deployment.init()
    wait_said(deployment.daemon("consumer", None, "--role", "consumer").start(), "streaming slot", 1)
    with (
        redis.Redis.from_url(deployment.redis_url) as client,
        psycopg.connect(deployment.dsn, autocommit=True) as writer,
    ):
        wait_moving(deployment)
        before, began = script_calls(client), time.monotonic()
        for number in range(1000):
            writer.execute("INSERT INTO elsewhere VALUES (%s)", [number])
        wait_moving(deployment)
        calls, seconds = script_calls(client) - before, time.monotonic() - began
    # At most one in 10 ms, however slow the machine; a few more belong to heartbeats and to who waits.
    assert calls <= 100 * seconds + 10


def script_calls(client: redis.Redis) -> int:
    """Return how many scripts the server has run."""
    stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])
