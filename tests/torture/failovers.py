"""What is replaced by another that may have less: a Redis by its replica, a PostgreSQL by its standby."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment
from tests.rig.databases import fresh_database
from tests.rig.redis_pair import RedisPair, redis_pair
from tests.rig.standby import StandbyPair
from tests.torture.scene import Cast, Scene, Strike, cast, pause

_COPYING_DELAY: Final = 0.04
"""Seconds that what is copied to the replica takes: what is acknowledged meanwhile is lost with the master."""

_DATABASE: Final = "tortured"


class RedisFailovers:
    """The replica, which is behind by what the proxy delays, takes the master's place and address."""

    def __init__(self, cast: Cast, pair: RedisPair) -> None:
        self.cast = cast
        self._pair = pair

    def strike(self, chance: random.Random) -> Strike:
        """Fail over; the old master then becomes the replica of the new one."""
        variant = chance.choice(["delayed", "delayed", "master lives on", "replica far behind", "with the consumers"])
        pair = self._pair
        pair.wait_copying()
        pair.copying.delay(_COPYING_DELAY)
        self.cast.leader()
        pause(chance, 0.4)
        if variant == "replica far behind":
            pair.copying.hold()
            pause(chance, 1.0)
        if variant == "master lives on":
            # Whoever is still connected goes on writing to it until the link is switched.
            pair.fail_over()
            pair.master.kill()
        else:
            pair.master.kill()
            pair.fail_over()
        if variant == "with the consumers":
            self.cast.kill_all()
        self._change_places()
        return Strike(variant)

    def _change_places(self) -> None:
        pair = self._pair
        pair.replica.settings.pop("replicaof", None)
        pair.master.settings["replicaof"] = f"127.0.0.1 {pair.copying.port}"
        pair.copying.pass_on()
        pair.copying.switch(pair.replica.port)
        pair.master.start()
        self._pair = replace(pair, master=pair.replica, replica=pair.master)


class PostgresFailovers:
    """The standby, which has our failover slot, takes the primary's place and address."""

    def __init__(self, cast: Cast, pair: StandbyPair) -> None:
        self.cast = cast
        self._pair = pair

    def strike(self, chance: random.Random) -> Strike:
        """Fail over; the old primary is made anew as the standby of the new one."""
        variant = chance.choice(["crash", "crash", "standby far behind", "with the consumers"])
        self.cast.leader()
        self._pair.wait_slot_synced()
        pause(chance, 0.4)
        if variant == "standby far behind":
            # The consumer has to wait for it as well, so that it is never ahead of who is promoted.
            self._pair.copying.hold()
            pause(chance, 1.0)
        self._pair.fail_over()
        if variant == "with the consumers":
            self.cast.kill_all()
        self.cast.wait_moving()
        self._pair.build_standby()
        return Strike(variant)


@contextmanager
def redis_failovers(folder: Path) -> Iterator[Scene]:
    """Start a Redis with a replica behind a delaying proxy, and everything else."""
    with (
        PostgresServer() as server,
        redis_pair() as pair,
        fresh_database(server) as dsn,
        Deployment(dsn, pair.url, folder) as deployment,
        cast(deployment) as made,
    ):
        yield RedisFailovers(made, pair)


@contextmanager
def postgres_failovers(folder: Path) -> Iterator[Scene]:
    """Start a primary with a standby that its logical slots wait for, and everything else."""
    with StandbyPair() as pair, RedisServer() as redis:
        with psycopg.connect(pair.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {_DATABASE}".encode())
        with Deployment(pair.dsn(_DATABASE), redis.url, folder) as deployment, cast(deployment) as made:
            yield PostgresFailovers(made, pair)
