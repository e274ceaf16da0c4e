"""Connections that find their server whenever they are opened: Sentinel's master, or a cluster's node with our slot.

All keys of a deployment stand in one slot, so that one server serves them all and an ordinary client does: scripts,
transactions, blocking reads, WAIT. A reply that only a wrong server gives ends the connection, and the next finds the
right one. While the slot is moved (ASK, TRYAGAIN) nothing is done until it has been: most of what is asked needs
several keys, and neither side may have them all.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError, ResponseError

from cdc_counter.tallies.lease import Lease, leased

Address = tuple[str, int]

ASK_TIMEOUT: Final = 1.0
"""Seconds for whoever knows the address: one that does not answer delays the next by this much."""


class Whereabouts(Protocol):
    """Where one deployment's server is."""

    async def address(self) -> Address:
        """Find out, now. Raises redis' ConnectionError when nobody knows."""

    def is_elsewhere(self, error: ResponseError) -> bool:
        """Say whether an answer means that the server we talk to is not, or not any more, the one."""

    async def settled(self, lease: Lease) -> object:
        """Return what stays the same while no key comes or goes by itself; raise while some do."""

    async def aclose(self) -> None:
        """Close every connection to those who are asked."""


class _Finding:
    """What is added to the library's connections."""

    def __init__(self, *, whereabouts: Whereabouts, **options: Any) -> None:
        super().__init__(**options)
        self._whereabouts = whereabouts

    async def _connect(self) -> None:
        self.host, self.port = await self._whereabouts.address()
        await super()._connect()  # type: ignore[misc]  # of the connection that this is mixed into

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]  # as above
        except ResponseError as error:
            if not self._whereabouts.is_elsewhere(error):
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]  # as above
            raise RedisConnectionError(f"the tallies are served elsewhere: {error}") from error


class _FindingConnection(_Finding, Connection):
    """Over TCP."""


class _FindingTlsConnection(_Finding, SSLConnection):
    """Over TLS."""


class FindingPool(ConnectionPool):
    """A pool of such connections."""

    def __init__(self, url: str, whereabouts: Whereabouts, **options: Any) -> None:
        given: dict[str, Any] = {**parse_url(url), **options}
        tls = given.pop("connection_class", Connection) is SSLConnection
        kind = _FindingTlsConnection if tls else _FindingConnection
        self.whereabouts = whereabouts
        super().__init__(connection_class=kind, whereabouts=whereabouts, **given)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, and those to whoever is asked."""
        await super().disconnect(inuse_connections)
        await self.whereabouts.aclose()


class SentinelMaster:
    """The master that the Sentinels agree on, under the name they know it by."""

    def __init__(self, name: str, sentinels: Sequence[Address], **options: Any) -> None:
        self._name = name
        self._sentinel = Sentinel(sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # untyped in redis

    async def address(self) -> Address:
        """Ask the Sentinels, one after the other."""
        host, port = await self._sentinel.discover_master(self._name)
        return str(host), int(port)

    def is_elsewhere(self, error: ResponseError) -> bool:
        """Say whether it has become a replica."""
        # Redis 6.2 wraps what a script's command was refused for into a longer message.
        return "READONLY" in str(error) or "read only replica" in str(error)

    async def settled(self, lease: Lease) -> object:  # noqa: ARG002  # as the protocol has it
        """Return nothing: a replica that is to become another's copy drops its connections."""
        return None

    async def aclose(self) -> None:
        """Close the connections to the Sentinels."""
        await asyncio.gather(*(client.aclose() for client in self._sentinel.sentinels))


class ClusterSlot:
    """The node that serves the slot of one prefix."""

    def __init__(self, prefix: str, nodes: Sequence[Address], **options: Any) -> None:
        self._slot = key_slot(f"{prefix}:".encode())
        self._given = tuple(nodes)
        self._known: tuple[Address, ...] = ()
        self._told: Address | None = None
        self._options = options

    async def address(self) -> Address:
        """Ask the nodes, one after the other."""
        # Whoever sent us away knows best, once; if that leads nowhere, the others are asked.
        told, self._told = self._told, None
        if told is not None:
            return told
        failures = []
        for node in dict.fromkeys((*self._known, *self._given)):
            try:
                ranges = await self._ask(node)
            except (RedisError, OSError, TimeoutError) as error:
                failures.append(f"{node[0]}:{node[1]}: {str(error) or type(error).__name__}")
                continue
            self._known = tuple(dict.fromkeys(address for _, _, nodes in ranges for address in nodes))
            for first, last, nodes in ranges:
                if first <= self._slot <= last and nodes:
                    return nodes[0]
            failures.append(f"{node[0]}:{node[1]}: nobody serves it")
        raise RedisConnectionError(f"no node says who serves slot {self._slot}: {'; '.join(failures)}")

    def is_elsewhere(self, error: ResponseError) -> bool:
        """Say whether another node serves the slot, and remember which."""
        if isinstance(error, MovedError):
            self._told = error.host, error.port
            return True
        return False

    async def settled(self, lease: Lease) -> object:
        """Return what the node serves; raise while our slot comes or goes."""
        text: bytes = await lease.execute_command("CLUSTER", "NODES")
        served = next(line for line in text.decode().splitlines() if "myself" in line.split()[2]).split()[8:]
        if not is_settled(served, self._slot):
            raise RedisConnectionError(f"slot {self._slot} is being moved")
        return served

    async def aclose(self) -> None:
        """Nothing stays open."""

    async def _ask(self, node: Address) -> list[tuple[int, int, list[Address]]]:
        client = Redis(host=node[0], port=node[1], **self._options)
        try:
            async with leased(client) as lease:
                reply: Any = await lease.execute_command("CLUSTER", "SLOTS")
        finally:
            await client.aclose()
        return slot_ranges(reply, node[0])


def slot_ranges(reply: Any, asked: str) -> list[tuple[int, int, list[Address]]]:
    """Return (first slot, last slot, addresses, the master's first) from a reply of CLUSTER SLOTS.

    A node that does not know its own address leaves it empty: it is the one that was `asked`.
    """
    return [
        (int(first), int(last), [((node[0] or b"").decode() or asked, int(node[1])) for node in nodes])
        for first, last, *nodes in reply
    ]


def is_settled(served: Sequence[str], slot: int) -> bool:
    """Say whether a node's own line of CLUSTER NODES has the slot, and no open move of it."""
    has = False
    for word in served:
        if word.startswith(f"[{slot}-"):
            return False
        if not word.startswith("["):
            first, _, last = word.partition("-")
            has |= int(first) <= slot <= int(last or first)
    return has
