"""A Redis master and its replica, with a link between them that delays or holds what is copied.

Clients reach the master by `link`, which can be switched to the replica as a failover behind one address does, and the
replica fetches by `copying`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from cdc_counter.embedded import RedisServer
from tests.fault.link import Link, fault_link
from tests.rig.eventually import eventually_sync


@dataclass(frozen=True, slots=True)
class RedisPair:
    """`url` leads to the master until `fail_over`."""

    master: RedisServer
    replica: RedisServer
    copying: Link
    link: Link

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.link.port}/0"

    def wait_copying(self) -> None:
        """Wait until the replica has what the master has had."""
        eventually_sync(lambda: follows(self.replica), "the replica follows its master", deadline=60)

    def fail_over(self) -> None:
        """Promote the replica and send everybody to it; the master goes on as if nothing had happened."""
        with redis.Redis.from_url(self.replica.url) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        self.link.switch(self.replica.port)


@contextmanager
def redis_pair(*, program: Path | None = None, settings: Mapping[str, str] | None = None) -> Iterator[RedisPair]:
    """Start both and wait until one copies the other."""
    common = {"repl-diskless-sync-delay": "0", **(settings or {})}
    with (
        RedisServer(program=program, settings=common) as master,
        fault_link(master.port) as copying,
        fault_link(master.port) as link,
        RedisServer(program=program, settings={**common, "replicaof": f"127.0.0.1 {copying.port}"}) as replica,
    ):
        pair = RedisPair(master, replica, copying, link)
        pair.wait_copying()
        yield pair


def follows(server: RedisServer) -> bool:
    """Say whether a server is the replica of a master that it is in touch with."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        facts = client.info("replication")
    return bool(facts["role"] == "slave" and facts["master_link_status"] == "up")
