"""A Redis Cluster of three masters, with replicas or without, whose hash slots can be moved as redis-cli moves them."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis
from redis.crc import key_slot

from cdc_counter.embedded import RedisServer
from tests.rig.eventually import eventually_sync
from tests.rig.redis import ask

_SLOTS: Final = 16_384
_KEYS_AT_ONCE: Final = 10
"""As many as redis-cli moves in one MIGRATE."""


@dataclass(frozen=True, slots=True)
class ClusterRig:
    """`masters` began with a third of the slots each; `replicas` follow them in order, if there are any."""

    masters: tuple[RedisServer, ...]
    replicas: tuple[RedisServer, ...]

    @property
    def nodes(self) -> tuple[RedisServer, ...]:
        """Everybody."""
        return self.masters + self.replicas

    @property
    def options(self) -> str:
        """What belongs into [redis], beside a url and a prefix with a hash tag."""
        listed = ", ".join(f'"127.0.0.1:{node.port}"' for node in self.nodes)
        return f"cluster = true\ncluster_nodes = [{listed}]\n"

    def owner(self, prefix: str) -> RedisServer:
        """Return the running node that serves a prefix, by its own account."""
        slot = slot_of(prefix)
        found = eventually_sync(lambda: self._owners(slot), f"a node serves {prefix}", deadline=60)
        return found[0]

    def begin_move(self, prefix: str, to: RedisServer) -> None:
        """Open a prefix's slot on both sides: what a resharding that was broken off leaves."""
        slot, source = slot_of(prefix), self.owner(prefix)
        ask(to.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
        ask(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(to))

    def move_some(self, prefix: str, to: RedisServer, count: int = _KEYS_AT_ONCE) -> int:
        """Move so many keys at most of a slot that is open; returns how many."""
        source = self.owner(prefix)
        keys = ask(source.port, "CLUSTER", "GETKEYSINSLOT", slot_of(prefix), count)
        if keys:
            ask(source.port, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, prefix: str, to: RedisServer) -> None:
        """Give the slot, whose keys were all moved, to its new node."""
        slot, source = slot_of(prefix), self.owner(prefix)
        others = [node for node in self.masters if node.running and node not in (source, to)]
        for node in (to, source, *others):
            ask(node.port, "CLUSTER", "SETSLOT", slot, "NODE", node_id(to))

    def move(self, prefix: str, to: RedisServer) -> None:
        """Move a prefix's slot with all its keys, while they are written to."""
        self.begin_move(prefix, to)
        while self.move_some(prefix, to):
            pass
        self.end_move(prefix, to)

    def wait_ok(self) -> None:
        """Wait until every running node finds that all slots are served."""
        eventually_sync(lambda: all(map(_is_ok, self.nodes)), "the cluster is whole", deadline=60)

    def _owners(self, slot: int) -> list[RedisServer]:
        found = []
        for node in self.nodes:
            with suppress(redis.ConnectionError):
                found += [node for first, last in _served(node) if first <= slot <= last]
        return found


@contextmanager
def redis_cluster(*, replicas: bool = False, program: Path | None = None) -> Iterator[ClusterRig]:
    """Start three masters, each with a replica if wanted, and wait until all slots are served."""
    settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1500", "repl-diskless-sync-delay": "0"}
    with ExitStack() as running:
        started = [
            running.enter_context(RedisServer(port=_bus_port(), program=program, settings=settings))
            for _ in range(6 if replicas else 3)
        ]
        rig = ClusterRig(tuple(started[:3]), tuple(started[3:]))
        bounds = [_SLOTS * number // 3 for number in range(4)]
        for number, node in enumerate(rig.masters):
            ask(node.port, "CLUSTER", "ADDSLOTS", *range(bounds[number], bounds[number + 1]))
        for number, node in enumerate(started):
            ask(node.port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            ask(node.port, "CLUSTER", "MEET", "127.0.0.1", started[0].port)
        eventually_sync(
            lambda: all(_knows(node, len(started)) for node in started), "the nodes know each other", deadline=60
        )
        for master, replica in zip(rig.masters, rig.replicas, strict=False):
            ask(replica.port, "CLUSTER", "REPLICATE", node_id(master))
        rig.wait_ok()
        yield rig


def slot_of(prefix: str) -> int:
    """Return the hash slot of all keys of a prefix with a hash tag."""
    return int(key_slot(f"{prefix}:meta".encode()))


def node_id(node: RedisServer) -> str:
    """Return the name by which the cluster knows a node."""
    return str(ask(node.port, "CLUSTER", "MYID").decode())


def _served(node: RedisServer) -> Iterator[tuple[int, int]]:
    """Yield the ranges of slots that a master believes are its own."""
    for line in ask(node.port, "CLUSTER", "NODES").decode().splitlines():
        _, _, flags, *rest = line.split()
        if "myself" in flags and "master" in flags:
            for word in rest[5:]:
                if not word.startswith("["):
                    first, _, last = word.partition("-")
                    yield int(first), int(last or first)


def _knows(node: RedisServer, count: int) -> bool:
    lines = ask(node.port, "CLUSTER", "NODES").decode().splitlines()
    return len(lines) == count and not any("handshake" in line for line in lines)


def _is_ok(node: RedisServer) -> bool:
    if not node.running:
        return True
    facts = ask(node.port, "CLUSTER", "INFO").decode()
    lines = ask(node.port, "CLUSTER", "NODES").decode().splitlines()
    following = b"master_link_status:down" not in ask(node.port, "INFO", "replication")
    return "cluster_state:ok" in facts and "cluster_slots_ok:16384" in facts and following and len(lines) >= 3


def _bus_port() -> int:
    """Return a free port whose cluster bus, 10,000 above it, is free and below the ephemeral range as well."""
    for _ in range(1000):
        port = random.randint(11_000, 19_000)
        if all(_is_free(each) for each in (port, port + 10_000)):
            return port
    raise AssertionError("no free ports for a cluster")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False
