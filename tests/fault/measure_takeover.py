"""Measures how long a stand-by takes to go on: `python -m tests.fault.measure_takeover [--rounds N] [--json]`.

From the signal to the first commit after it being in Redis: after kill -9, after SIGTERM, and where the consumer's
replication connection is a black hole, so that nobody tells the server that it is gone. Asserts nothing about time.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import redis

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment, wait_said
from tests.fault.link import fault_link
from tests.rig.daemon import Daemon

BLACK_HOLE_ROUNDS: Final = 3
"""Each takes as long as wal_sender_timeout_seconds."""


class Probe:
    """Commits a row and waits until Redis shows it."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._count = 0

    def seconds_after(self, fault: Callable[[], None]) -> float:
        """Return how long after `fault` a commit was in Redis that was made right after it."""
        begun = time.perf_counter()
        fault()
        self._deployment.sql("INSERT INTO orders (shop, amount) VALUES ('takeover', 1)")
        self._count += 1
        with redis.Redis.from_url(self._deployment.redis_url) as client:
            while int(client.hget("cdc:tally:orders_by_shop:-", "takeover") or 0) < self._count:
                time.sleep(0.005)
        return time.perf_counter() - begun


class Pair:
    """A consumer and its stand-by, which change places."""

    def __init__(self, active: Daemon, waiting: Daemon) -> None:
        self._stood_by = {active: 0, waiting: 0}
        self.active = active.start().wait_ready()
        self.waiting = waiting.start()
        self.wait_standing_by(waiting)

    def wait_standing_by(self, daemon: Daemon) -> None:
        """Wait until this one has begun to stand by once more."""
        self._stood_by[daemon] += 1
        wait_said(daemon, "standing by", self._stood_by[daemon])

    def change_places(self) -> None:
        """Let the other one stand by, started again if it ended: what stood by streams now."""
        self.active, self.waiting = self.waiting, self.active
        if not self.waiting.running:
            self.waiting.start()
        self.wait_standing_by(self.waiting)


def measured(deployment: Deployment, postgres_port: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds by what happened to the consumer."""
    probe = Probe(deployment)
    found: dict[str, list[float]] = {"kill -9": [], "SIGTERM": [], "black hole": []}
    with two_consumers(deployment) as pair:
        for _ in range(rounds):
            found["kill -9"].append(probe.seconds_after(pair.active.kill))
            pair.change_places()
            found["SIGTERM"].append(probe.seconds_after(pair.active.process.terminate))
            pair.active.process.wait(60)
            pair.change_places()
    with fault_link(postgres_port) as link:
        dsn = urlsplit(deployment.dsn)
        through = dsn._replace(netloc=dsn.netloc.replace(f":{dsn.port}", f":{link.port}")).geturl()
        proxied = deployment.write_config("proxied", dsn=through)
        for _ in range(min(rounds, BLACK_HOLE_ROUNDS)):
            with two_consumers(deployment, proxied):
                found["black hole"].append(probe.seconds_after(link.black_hole))
            link.pass_on()
    return found


@contextmanager
def two_consumers(deployment: Deployment, config: Path | None = None) -> Iterator[Pair]:
    """Run a consumer, with a configuration of its own if given, and a stand-by; kill both in the end."""
    with deployment.daemon("one", config) as one, deployment.daemon("two") as two:
        for daemon in (one, two):
            daemon.log.unlink(missing_ok=True)
        yield Pair(one, two)


def figures(seconds: list[float]) -> dict[str, float]:
    """Return what is worth printing."""
    return {
        "rounds": len(seconds),
        "median_seconds": round(statistics.median(seconds), 2),
        "max_seconds": round(max(seconds), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgresServer() as postgres,
        RedisServer() as redis_server,
        Deployment(postgres.dsn(), redis_server.url, Path(folder)) as deployment,
    ):
        deployment.init()
        seconds = measured(deployment, postgres.port, asked.rounds)
    found = {name: figures(one) for name, one in seconds.items()}
    if asked.json:
        print(json.dumps(found, indent=2))  # noqa: T201 - what it is for
        return
    for name, one in found.items():
        print(f"{name:<12}" + "".join(f"{key.replace('_', ' ')} {value}  " for key, value in one.items()))  # noqa: T201


if __name__ == "__main__":
    main()
