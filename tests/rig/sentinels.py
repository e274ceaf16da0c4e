"""Two Redis servers and three Sentinels that fail over from one to the other, as often as a test kills the master.

Everybody reaches a server by a link of its own, whose port is what Sentinel tells. What is done to a link is done to
copying only: clients and Sentinels pass. Hold the master's link and kill the master: the replica that is promoted has
lost what was written meanwhile.
"""

import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from cdc_counter.embedded import RedisServer
from cdc_counter.embedded.binaries import redis_server
from cdc_counter.embedded.child import Child, free_port, spawn
from tests.fault.link import Link, fault_link
from tests.rig.eventually import eventually_sync
from tests.rig.redis import ask
from tests.rig.redis_pair import follows

NAME: Final = "tallies"
"""Under which Sentinel knows the master."""

_DOWN_AFTER_MS: Final = 1000
_FAILOVER_TIMEOUT_MS: Final = 3000
"""A second failover begins twice this long after the first at the earliest."""


@dataclass(frozen=True, slots=True)
class SentinelRig:
    """`servers` and `links` belong together; `sentinels` are "host:port", as redis.sentinels wants them."""

    servers: tuple[RedisServer, RedisServer]
    links: tuple[Link, Link]
    sentinels: tuple[str, ...]

    @property
    def options(self) -> str:
        """What belongs into [redis]."""
        listed = ", ".join(f'"{address}"' for address in self.sentinels)
        return f'sentinels = [{listed}]\nsentinel_master = "{NAME}"\n'

    @property
    def _sentinel_ports(self) -> list[int]:
        return [int(address.partition(":")[2]) for address in self.sentinels]

    def master(self) -> int:
        """Return which server the Sentinels name, all of them: 0 or 1; -1 while they don't agree."""
        named = set()
        for port in self._sentinel_ports:
            named.add(int(ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1]))
        ports = [link.port for link in self.links]
        return ports.index(named.pop()) if len(named) == 1 else -1

    def wait_settled(self) -> None:
        """Wait until there is a master with a replica, and every Sentinel knows both and the other Sentinels."""
        eventually_sync(self._settled, "Sentinels, master and replica know each other", deadline=60)

    def kill_master(self) -> int:
        """Kill -9 the master and wait until the other one is it; returns which one that is."""
        old = self.master()
        assert old >= 0, "the Sentinels don't agree"
        self.servers[old].kill()
        eventually_sync(lambda: self.master() == 1 - old, "the replica is promoted", deadline=60)
        return 1 - old

    def revive(self) -> None:
        """Start the server that was killed, as the replica of the other."""
        alive = self.master()
        # Both were started with what was true then.
        self.servers[alive].settings.pop("replicaof", None)
        self.servers[1 - alive].settings["replicaof"] = f"127.0.0.1 {self.links[alive].port}"
        self.servers[1 - alive].start()
        self.wait_settled()

    def _settled(self) -> bool:
        master = self.master()
        if master < 0 or not self.servers[1 - master].running or not follows(self.servers[1 - master]):
            return False
        for port in self._sentinel_ports:
            replicas = [_facts(flat) for flat in ask(port, "SENTINEL", "REPLICAS", NAME)]
            if [replica["flags"] for replica in replicas] != ["slave"]:
                return False
            facts = _facts(ask(port, "SENTINEL", "MASTER", NAME))
            if (facts["flags"], facts["num-other-sentinels"]) != ("master", "2"):
                return False
        return True


@contextmanager
def sentinel_rig(*, program: Path | None = None, settings: Mapping[str, str] | None = None) -> Iterator[SentinelRig]:
    """Start everything and wait until it has settled, which takes some seconds."""
    with ExitStack() as running:
        ports = [free_port(), free_port()]
        links = [running.enter_context(fault_link(port, only=b"PSYNC")) for port in ports]
        servers = []
        for number, (port, link) in enumerate(zip(ports, links, strict=True)):
            own = {"replica-announce-ip": "127.0.0.1", "replica-announce-port": str(link.port)}
            own |= {"repl-diskless-sync-delay": "0", **(settings or {})}
            if number:
                own["replicaof"] = f"127.0.0.1 {links[0].port}"
            servers.append(running.enter_context(RedisServer(port=port, program=program, settings=own)))
        watching = [running.enter_context(_sentinel(program or redis_server(), links[0].port)) for _ in range(3)]
        rig = SentinelRig(
            (servers[0], servers[1]), (links[0], links[1]), tuple(f"127.0.0.1:{port}" for port in watching)
        )
        rig.wait_settled()
        yield rig


@contextmanager
def _sentinel(program: Path, master_port: int) -> Iterator[int]:
    """Run one Sentinel; gives its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="cdc-counter-sentinel-") as name:
        folder = Path(name)
        # It keeps what it learns in this file.
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {master_port} 2\n"
            f"sentinel down-after-milliseconds {NAME} {_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {NAME} {_FAILOVER_TIMEOUT_MS}\n",
            encoding="utf-8",
        )
        child = spawn(
            [program, folder / "sentinel.conf", "--sentinel"],
            log=folder / "log",
            owner_gone=signal.SIGKILL,
            user=None,
            remove=[folder],
        )
        try:
            child.wait_until(lambda: _answers(port), 60, f"Sentinel on port {port}")
            yield port
        finally:
            _end(child)


def _end(child: Child) -> None:
    child.signal(signal.SIGKILL)
    child.wait(30)
    child.release()


def _answers(port: int) -> bool:
    try:
        return bool(ask(port, "PING"))
    except redis.ConnectionError:
        return False


def _facts(flat: list[bytes]) -> dict[str, str]:
    words = [word.decode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
