"""The kinds of scenes: which servers there are and what dies."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType

from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.failpoints import Failpoint
from tests.fault.deployment import Deployment
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync
from tests.torture.kind import Kind
from tests.torture.scene import Cast, Scene, cast, pause

_STREAM_POINTS = (
    Failpoint.AFTER_RECEIVE,
    Failpoint.BEFORE_APPLY,
    Failpoint.AFTER_APPLY,
    Failpoint.AFTER_CONFIRM,
    Failpoint.BEFORE_EMIT,
)
_SETTINGS = "[stream]\nstatus_seconds = 0.5\nheartbeat_seconds = 1"


class ConsumerKills:
    """A consumer is killed at a random moment or at a named place of its code, alone or with its stand-by."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast

    def strike(self, chance: random.Random) -> str:
        """Kill; whoever died is started again."""
        variant = chance.choice(["at any moment", "at any moment", "at a failpoint", "at a failpoint", "both", "young"])
        match variant:
            case "at any moment":
                leader = self.cast.leader()
                pause(chance, 0.3)
                leader.kill()
                leader.start()
            case "at a failpoint":
                self._at_failpoint(chance)
            case "both":
                pause(chance, 0.3)
                for daemon in self.cast.daemons:
                    daemon.kill()
                for daemon in self.cast.daemons:
                    daemon.start()
            case "young":
                # While it starts, connects, or takes over.
                leader = self.cast.leader()
                leader.kill()
                leader.start()
                pause(chance, 1.5)
                leader.kill()
                leader.start()
        return variant

    def _at_failpoint(self, chance: random.Random) -> None:
        self.cast.leader()
        point = chance.choice(_STREAM_POINTS)
        done = self.cast.orders / f"{point}.done"
        done.unlink(missing_ok=True)
        (self.cast.orders / point).write_text(f"kill {chance.randrange(4)}", encoding="utf-8")
        eventually_sync(done.exists, f"a consumer died at {point}", deadline=60)
        dead = eventually_sync(
            lambda: [daemon for daemon in self.cast.daemons if not daemon.running], "a consumer is dead", deadline=30
        )
        for daemon in dead:
            daemon.start()


class PostgresCrashes:
    """The postmaster and all its children are killed; sometimes again during recovery, sometimes with a consumer."""

    def __init__(self, cast: Cast, server: PostgresServer) -> None:
        self.cast = cast
        self._server = server

    def strike(self, chance: random.Random) -> str:
        """Crash it and start it."""
        variant = chance.choice(["crash", "crash", "crash after a checkpoint", "immediate stop", "with the consumer"])
        self.cast.leader()
        pause(chance, 0.4)
        if variant == "crash after a checkpoint":
            self.cast.deployment.sql("CHECKPOINT")
            pause(chance, 0.1)
        if variant == "immediate stop":
            self._server.stop("immediate")
        else:
            self._server.kill()
        if variant == "with the consumer":
            for daemon in self.cast.daemons:
                daemon.kill()
                daemon.start()
        self._server.start()
        return variant


class RedisCrashes:
    """redis-server is killed, under each fsync policy in turn; sometimes with a consumer."""

    def __init__(self, cast: Cast, server: RedisServer) -> None:
        self.cast = cast
        self._server = server

    def strike(self, chance: random.Random) -> str:
        """Crash it and start it with any fsync policy."""
        policy = self._server.settings["appendfsync"]
        variant = chance.choice(["crash", "crash", "away for a while", "with the consumer"])
        self.cast.leader()
        pause(chance, 0.4)
        self._server.kill()
        if variant == "with the consumer":
            for daemon in self.cast.daemons:
                daemon.kill()
                daemon.start()
        if variant == "away for a while":
            pause(chance, 2.0)
        self._server.settings = {**self._server.settings, "appendfsync": chance.choice(["always", "everysec", "no"])}
        self._server.start()
        return f"{variant}, appendfsync {policy}"


@contextmanager
def _on_stage(folder: Path) -> Iterator[tuple[Cast, PostgresServer, RedisServer]]:
    """Start one PostgreSQL with fsync on, one Redis with an append-only file, and both consumers."""
    with (
        PostgresServer() as server,
        RedisServer() as redis,
        fresh_database(server) as dsn,
        Deployment(dsn, redis.url, folder) as deployment,
        cast(deployment, settings=_SETTINGS) as made,
    ):
        yield made, server, redis


@contextmanager
def consumer_kills(folder: Path) -> Iterator[Scene]:
    """Start servers for killing consumers."""
    with _on_stage(folder) as (made, _, _):
        yield ConsumerKills(made)


@contextmanager
def postgres_crashes(folder: Path) -> Iterator[Scene]:
    """Start servers for crashing PostgreSQL."""
    with _on_stage(folder) as (made, server, _):
        yield PostgresCrashes(made, server)


@contextmanager
def redis_crashes(folder: Path) -> Iterator[Scene]:
    """Start servers for crashing Redis."""
    with _on_stage(folder) as (made, _, redis):
        yield RedisCrashes(made, redis)


SCENES: Mapping[Kind, Callable[[Path], AbstractContextManager[Scene]]] = MappingProxyType(
    {
        Kind.CONSUMER_KILLS: consumer_kills,
        Kind.POSTGRES_CRASHES: postgres_crashes,
        Kind.REDIS_CRASHES: redis_crashes,
    }
)
