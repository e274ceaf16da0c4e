"""Somebody lets Redis evict keys of ours: no number that may be wrong is live, and all are exact once it has ended."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import redis

from cdc_counter.embedded import RedisServer
from tests.fault.deployment import Deployment, Traffic, command, fetch, honest_recount, wait_said
from tests.fault.losses import wait_new_epoch
from tests.fault.test_rebuild import rebuilds, started, wait_live, wait_not_ready
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync

REMEDY = "CONFIG SET maxmemory-policy noeviction"
ROOM = 3 << 20
NOISE = b"." * 8192


@pytest.fixture
def roomy(database18: str, tmp_path: Path) -> Iterator[Deployment]:
    """Make a deployment with a Redis of its own, whose settings may be changed."""
    with RedisServer() as server, Deployment(database18, server.url, tmp_path) as made:
        yield made


def tally_keys(client: redis.Redis) -> set[bytes]:
    return set(client.scan_iter(match="cdc:tally:*", count=1000))


def evicted(client: redis.Redis) -> int:
    return int(client.info("stats")["evicted_keys"])


def let_evict(client: redis.Redis, policy: str) -> None:
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory-policy", policy)
    client.config_set("maxmemory", str(used + ROOM))


def press(client: redis.Redis, number: int, *, seconds: int | None = None) -> None:
    """Write as much as there is room for, so that something else has to go."""
    for key in range(ROOM // len(NOISE)):
        # Redis may find nothing to evict for a moment.
        with suppress(redis.exceptions.OutOfMemoryError):
            client.set(f"noise:{number}:{key}", NOISE, ex=seconds)


def evict_a_tally(client: redis.Redis) -> None:
    """Press until a tally that was there is gone."""
    before = tally_keys(client)
    for number in range(200):
        press(client, number)
        if before - tally_keys(client):
            return
    raise AssertionError("no tally was evicted")


def end_evicting(client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "0")


def live_and_wrong(daemon: Daemon, deployment: Deployment) -> dict[tuple[str, str], object]:
    """Return what readers are told as live and is not so, at rest."""
    truth = honest_recount(deployment.dsn)
    found: dict[tuple[str, str], object] = {}
    for counter, scope in {(counter, scope) for counter, scope, _ in truth}:
        status, said = fetch(daemon, f"/v1/counters/{counter}" + ("" if scope == "-" else f"/{scope}"))
        right = {bucket: value for (name, of, bucket), value in truth.items() if (name, of) == (counter, scope)}
        if status == 200 and said["state"] == "live" and said["values"] != right:
            found[counter, scope] = said
    return found


def test_what_is_evicted_under_a_running_daemon_is_not_live_and_counted_again_once_it_ends(roomy: Deployment) -> None:
    daemon = started(roomy)
    with closing(redis.Redis.from_url(roomy.redis_url, protocol=2)) as client:
        with Traffic(roomy.dsn) as traffic:
            traffic.wait_for_more()
            old = roomy.epoch()
            let_evict(client, "allkeys-random")
            evict_a_tally(client)
            wait_not_ready(daemon, REMEDY)
            evict_a_tally(client)
            traffic.wait_for_more()
        assert live_and_wrong(daemon, roomy) == {}
        said = command("status", config=roomy.config)
        assert REMEDY in said.stdout
        assert "maxmemory-policy is allkeys-random" in daemon.log_text()
        end_evicting(client)
    wait_new_epoch(roomy, old)
    roomy.assert_exact(deadline=60)
    assert live_and_wrong(daemon, roomy) == {}
    assert daemon.running
    # Not again and again while it went on.
    assert sum(rebuilds(daemon).values()) == 1


@pytest.mark.programme
def test_what_was_evicted_while_nothing_ran_is_counted_again_at_the_next_start(roomy: Deployment) -> None:
    """Also where everything but the tallies survived, and the policy was put back."""
    daemon = started(roomy)
    roomy.assert_exact()
    old = roomy.epoch()
    daemon.terminate()
    with closing(redis.Redis.from_url(roomy.redis_url, protocol=2)) as client:
        single = {key: client.dump(key) for key in ("cdc:meta", "cdc:counters", "cdc:feed", "cdc:recent")}
        let_evict(client, "allkeys-random")
        evict_a_tally(client)
        end_evicting(client)
        for key, value in single.items():
            if value is not None:
                client.restore(key, 0, value, replace=True)
    assert roomy.epoch() == old
    daemon.start()
    wait_said(daemon, "every counter is rebuilt (evicted)")
    wait_new_epoch(roomy, old)
    roomy.assert_exact(deadline=60)
    assert live_and_wrong(daemon, roomy) == {}


def test_keys_of_others_that_are_evicted_cost_nothing(roomy: Deployment) -> None:
    daemon = started(roomy)
    wait_live(roomy)
    old = roomy.epoch()
    with closing(redis.Redis.from_url(roomy.redis_url, protocol=2)) as client, Traffic(roomy.dsn) as traffic:
        let_evict(client, "volatile-lru")
        for number in range(2):
            press(client, number, seconds=3600)
        count = evicted(client)
        assert count > 0

        def looked() -> bool:
            noted = client.hget("cdc:meta", "evictions") or b""
            return int(noted.split()[1]) >= count

        eventually_sync(looked, "it was noted that other keys were evicted", deadline=30)
        traffic.wait_for_more()
        end_evicting(client)
    roomy.assert_exact()
    assert (roomy.epoch(), rebuilds(daemon)) == (old, {})


def test_with_rebuilding_off_what_was_evicted_is_stale_and_the_daemon_ends(roomy: Deployment) -> None:
    roomy.init()
    daemon = roomy.daemon(config=roomy.write_config("off", extra="[stream]\nrebuild = false")).start().wait_ready()
    with closing(redis.Redis.from_url(roomy.redis_url, protocol=2)) as client:
        let_evict(client, "allkeys-lru")
        client.config_set("maxmemory-samples", "64")
        evict_a_tally(client)
        assert daemon.process.wait(60) == 6
        # Where our own records were evicted nobody is told a number at all.
        if roomy.epoch() and (states := roomy.states()):
            assert set(states.values()) == {"stale"}
            assert REMEDY in daemon.log_text()
