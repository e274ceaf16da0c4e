"""A consumer, two gateways and servers of their own, and what can happen to them while clients watch."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment, Traffic, honest_recount
from tests.fault.link import Link, fault_link
from tests.fault.losses import wait_new_epoch
from tests.rig.daemon import Daemon
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync
from tests.rig.watchers import Room, Shown

ROOMS: Final[tuple[Room, ...]] = (
    *(("open_by_channel", str(account)) for account in range(5)),
    ("orders_by_shop", "-"),
    ("amount_by_shop", "-"),
    ("conversations", "-"),
    ("visits_by_page", "-"),
)


@dataclass
class Stage:
    """Everything runs. The first gateway talks to Redis itself, the second over `link`."""

    deployment: Deployment
    postgres: PostgresServer
    redis: RedisServer
    consumer: Daemon
    gateways: tuple[Daemon, Daemon]
    link: Link

    @property
    def urls(self) -> list[str]:
        """Where the gateways answer."""
        return [f"http://127.0.0.1:{gateway.port}" for gateway in self.gateways]

    def truth(self) -> Shown:
        """Return what every client must show in the end."""
        rooms: Shown = {room: {} for room in ROOMS}
        for (counter, scope, bucket), value in honest_recount(self.deployment.dsn).items():
            if (counter, scope) in rooms:
                rooms[counter, scope][bucket] = value
        return rooms


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Start everything."""
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(fsync=False))
        database = stack.enter_context(fresh_database(postgres))
        server = stack.enter_context(RedisServer())
        link = stack.enter_context(fault_link(server.port))
        deployment = stack.enter_context(Deployment(database, server.url, folder))
        deployment.init()
        far = deployment.write_config("far", redis_url=f"redis://127.0.0.1:{link.port}/0")
        consumer = deployment.daemon("consumer", None, "--role", "consumer").start()
        gateways = (
            deployment.daemon("near", None, "--role", "gateway").start(),
            deployment.daemon("away", far, "--role", "gateway").start(),
        )
        for gateway in gateways:
            gateway.wait_ready()
        yield Stage(deployment, postgres, server, consumer, gateways, link)


Fault = Callable[[Stage, Traffic], None]


def kill_gateways(on: Stage, traffic: Traffic) -> None:
    """Kill both gateways, then start them."""
    for gateway in on.gateways:
        gateway.kill()
    traffic.wait_for_more()
    for gateway in on.gateways:
        gateway.start()
    for gateway in on.gateways:
        gateway.wait_ready(60)


def kill_consumer(on: Stage, traffic: Traffic) -> None:
    """Kill and start the consumer."""
    on.consumer.kill()
    traffic.wait_for_more()
    on.consumer.start()


def kill_redis(on: Stage, traffic: Traffic) -> None:
    """Kill and start Redis, which loses at most its last second."""
    on.redis.kill()
    traffic.wait_for_more()
    on.redis.start()


def bring_redis_back_older(on: Stage, traffic: Traffic) -> None:
    """Let Redis come back with files that are older than what the slot was told, while the gateways live on."""
    old = on.deployment.epoch()
    copy = on.redis.folder / "copy"
    shutil.copytree(on.redis.data_dir, copy)
    before = on.deployment.slot_position()
    traffic.wait_for_more()
    eventually_sync(lambda: on.deployment.slot_position() > before, "the slot has moved on", deadline=60)
    on.redis.kill()
    shutil.rmtree(on.redis.data_dir)
    copy.rename(on.redis.data_dir)
    on.redis.start()
    wait_new_epoch(on.deployment, old, deadline=60)


def flush_redis(on: Stage, traffic: Traffic) -> None:
    """Empty Redis: everything is counted again."""
    old = on.deployment.epoch()
    with redis.Redis.from_url(on.redis.url) as client:
        client.flushall()
    traffic.wait_for_more()
    wait_new_epoch(on.deployment, old, deadline=60)


def crash_postgres(on: Stage, traffic: Traffic) -> None:
    """Kill and start PostgreSQL."""
    on.postgres.kill()
    on.postgres.start()
    traffic.wait_for_more()


def trim_the_feed(on: Stage, traffic: Traffic) -> None:
    """Let the gateways sleep until the feed holds nothing of what they have missed."""
    for gateway in on.gateways:
        gateway.freeze()
    traffic.wait_for_more()
    with redis.Redis.from_url(on.redis.url) as client:
        client.xtrim("cdc:feed", maxlen=0, approximate=False)
    for gateway in on.gateways:
        gateway.thaw()


def freeze_gateway(on: Stage, traffic: Traffic) -> None:
    """Stop and continue one gateway."""
    on.gateways[0].freeze()
    traffic.wait_for_more(100)
    on.gateways[0].thaw()


def freeze_consumer(on: Stage, traffic: Traffic) -> None:
    """Stop and continue the consumer."""
    on.consumer.freeze()
    traffic.wait_for_more(100)
    on.consumer.thaw()


def hold_the_link(on: Stage, traffic: Traffic) -> None:
    """Keep back every byte between a gateway and Redis."""
    on.link.hold()
    traffic.wait_for_more(100)
    on.link.pass_on()


def cut_the_link(on: Stage, traffic: Traffic) -> None:
    """Cut the connections between a gateway and Redis."""
    for _ in range(3):
        on.link.switch(on.redis.port)
        traffic.wait_for_more()
