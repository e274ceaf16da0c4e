"""What dies and comes back with what it had: consumers, PostgreSQL, Redis."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.failpoints import Failpoint
from tests.fault.deployment import Deployment
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync
from tests.rig.failpoints import Action
from tests.torture.scene import Cast, Scene, Strike, cast, pause

_STREAM_POINTS: Final = (
    Failpoint.AFTER_RECEIVE,
    Failpoint.BEFORE_APPLY,
    Failpoint.AFTER_APPLY,
    Failpoint.AFTER_CONFIRM,
    Failpoint.BEFORE_EMIT,
)


class ConsumerKills:
    """A consumer is killed at a random moment or at a named place of its code, alone or with its stand-by."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast

    def strike(self, chance: random.Random) -> Strike:
        """Kill; whoever died is started again."""
        variant = chance.choice(["any moment", "any moment", "any moment", "failpoint", "failpoint", "both", "young"])
        match variant:
            case "any moment":
                leader = self.cast.leader()
                pause(chance, 0.3)
                leader.kill()
                leader.start()
            case "failpoint":
                return self._at_failpoint(chance)
            case "both":
                self.cast.leader()
                pause(chance, 0.3)
                self.cast.kill_all()
                return Strike(variant, 2)
            case "young":
                # While it starts and connects; its stand-by takes over meanwhile.
                leader = self.cast.leader()
                leader.kill()
                leader.start()
                pause(chance, 1.5)
                leader.kill()
                leader.start()
                return Strike(variant, 2)
        return Strike(variant)

    def _at_failpoint(self, chance: random.Random) -> Strike:
        self.cast.leader()
        point = chance.choice(_STREAM_POINTS)
        failpoints = self.cast.deployment.failpoints
        failpoints.order(point, Action.KILL, chance.randrange(4))
        failpoints.wait_reached(point)
        dead = eventually_sync(
            lambda: [daemon for daemon in self.cast.daemons if not daemon.running], "a consumer is dead", deadline=30
        )
        for daemon in dead:
            daemon.start()
        return Strike(point, len(dead))


class PostgresCrashes:
    """The postmaster and all its children are killed; sometimes right after a checkpoint, sometimes with consumers."""

    def __init__(self, cast: Cast, server: PostgresServer) -> None:
        self.cast = cast
        self._server = server

    def strike(self, chance: random.Random) -> Strike:
        """Crash it and start it."""
        variant = chance.choice(["crash", "crash", "crash after a checkpoint", "immediate stop", "with the consumers"])
        self.cast.leader()
        pause(chance, 0.4)
        if variant == "crash after a checkpoint":
            self.cast.deployment.sql("CHECKPOINT")
            pause(chance, 0.1)
        if variant == "immediate stop":
            self._server.stop("immediate")
        else:
            self._server.kill()
        if variant == "with the consumers":
            self.cast.kill_all()
        self._server.start()
        return Strike(variant)


class RedisCrashes:
    """redis-server is killed, under any fsync policy; sometimes with the consumers."""

    def __init__(self, cast: Cast, server: RedisServer) -> None:
        self.cast = cast
        self._server = server

    def strike(self, chance: random.Random) -> Strike:
        """Crash it and start it."""
        variant = chance.choice(["crash", "crash", "away for a while", "with the consumers"])
        policy = self._server.settings["appendfsync"]
        self.cast.leader()
        pause(chance, 0.4)
        self._server.kill()
        if variant == "with the consumers":
            self.cast.kill_all()
        if variant == "away for a while":
            pause(chance, 2.0)
        self._server.settings["appendfsync"] = chance.choice(["always", "everysec", "no"])
        self._server.start()
        return Strike(f"{variant}, appendfsync {policy}")


@contextmanager
def _stage(folder: Path) -> Iterator[tuple[Cast, PostgresServer, RedisServer]]:
    """Start one PostgreSQL with fsync on, one Redis with an append-only file, and the cast."""
    with (
        PostgresServer() as server,
        RedisServer() as redis,
        fresh_database(server) as dsn,
        Deployment(dsn, redis.url, folder) as deployment,
        cast(deployment) as made,
    ):
        yield made, server, redis


@contextmanager
def consumer_kills(folder: Path) -> Iterator[Scene]:
    """Start servers for killing consumers."""
    with _stage(folder) as (made, _, _):
        yield ConsumerKills(made)


@contextmanager
def postgres_crashes(folder: Path) -> Iterator[Scene]:
    """Start servers for crashing PostgreSQL."""
    with _stage(folder) as (made, server, _):
        yield PostgresCrashes(made, server)


@contextmanager
def redis_crashes(folder: Path) -> Iterator[Scene]:
    """Start servers for crashing Redis."""
    with _stage(folder) as (made, _, redis):
        yield RedisCrashes(made, redis)
