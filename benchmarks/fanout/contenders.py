"""Who fans out: our gateway, fed through Redis as the consumer feeds it, and the peers, each a process of its own.

A wave is one change of one room that everybody is in (`one`), or of each of the small rooms (`spread`): then, too,
every client gets one event. A wave's number is the value that it makes everybody see.
"""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from redis.asyncio import Redis

from benchmarks.fanout.servers.waves import COUNTERS, SPREAD, rooms_of
from benchmarks.installing import node, npm_peer
from benchmarks.pipes import Program
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.lifecycle import Epoch, Stored
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied, Move, TallyGroup
from cdc_counter.core.reading import CounterState
from cdc_counter.core.watermark import Watermark
from cdc_counter.embedded import RedisServer
from cdc_counter.embedded.child import free_port
from cdc_counter.tallies.connection import connect
from cdc_counter.tallies.store import TallyStore
from tests.rig.daemon import Daemon

EMIT: Final = "python-socketio, emit"
NODE: Final = "Node, socket.io 4"
AIOHTTP: Final = "aiohttp, bare WebSockets"
TRANSPORTS: Final = "bare transports, the clients' limit"

DEFAULT_TICK: Final = 20
SHORTEST_TICK: Final = 1
"""Milliseconds of conflation. The shortest one shows what a process can send; the default one what it is to send."""

_SERVERS: Final = Path(__file__).with_name("servers")
SOCKETIO: Final = "socket.io"
"""The npm package."""
_START_SECONDS: Final = 30.0


class Contender(Protocol):
    """A server that runs."""

    @property
    def port(self) -> int:
        """Where it listens."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def socketio(self) -> bool:
        """Whether it speaks Socket.IO."""

    @property
    def ahead(self) -> int:
        """Waves on their way at once when it is to be as fast as it can, so that it never waits for the next one."""

    def send(self, kind: str, value: int) -> None:
        """Send a wave; return at once, or as soon as it is handed over."""


@dataclass(slots=True)
class Ours:
    """The gateway alone, and a Redis whose tallies are moved by the consumer's own script."""

    port: int
    pid: int
    _store: TallyStore
    _rooms: int
    _loop: asyncio.AbstractEventLoop
    _position: int = 1
    socketio: bool = True
    # One that is being sent and one that waits: more would be conflated, and only keep Redis busy.
    ahead: int = 2
    _values: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def send(self, kind: str, value: int) -> None:
        """Apply a batch that brings every tally concerned to this value."""
        delta, self._values[kind] = value - self._values[kind], value
        groups = [TallyGroup(COUNTERS[kind], scope, {"-": delta}) for scope in rooms_of(kind, self._rooms)]
        before, self._position = Lsn(self._position), self._position + 1
        moves = [Move("watermark", before.version, Lsn(self._position).version)]
        outcome = self._loop.run_until_complete(self._store.apply("bench", moves, groups))
        if not isinstance(outcome, Applied):
            raise TypeError(f"the wave was not applied: {outcome}")


@dataclass(slots=True)
class Peer:
    """A program of `servers/`, whose first line is its port."""

    _program: Program
    socketio: bool
    ahead: int = 4

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._program.greeting)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._program.pid

    def send(self, kind: str, value: int) -> None:
        """Ask for a wave."""
        self._program.tell(f"{kind} {value}")


@contextmanager
def ours(folder: Path, rooms: int, tick: int) -> Iterator[Contender]:
    """Run our gateway over a Redis of its own."""
    port = free_port()
    loop = asyncio.new_event_loop()
    with RedisServer() as redis:
        config = folder / f"gateway-{tick}.toml"
        config.write_text(
            f'[postgres]\ndsn = "postgresql://nobody@127.0.0.1:1/none"\n[redis]\nurl = "{redis.url}"\n'
            f'[gateway]\nport = {port}\ntick_ms = {tick}\n[[counter]]\nname = "everywhere"\ntable = "unused"\n',
            encoding="utf-8",
        )
        client: Redis = connect(redis.url)
        try:
            store = loop.run_until_complete(_begun(client))
            with Daemon(
                config, folder / f"gateway-{tick}.log", port=port, words=("run", "--role", "gateway")
            ) as daemon:
                pid = daemon.start().process.pid
                _wait_listening(daemon, port)
                yield Ours(port, pid, store, rooms, loop)
        finally:
            loop.run_until_complete(client.aclose())
            loop.close()


@contextmanager
def python_peer(_folder: Path, rooms: int, *, module: str, socketio: bool) -> Iterator[Contender]:
    """Run a server of `servers/` with the benchmark's own interpreter: its libraries are the versions that we use."""
    with Program.module(f"benchmarks.fanout.servers.{module}", str(rooms)) as program:
        yield Peer(program, socketio)


@contextmanager
def node_peer(_folder: Path, rooms: int) -> Iterator[Contender]:
    """Run Node's. Raises PeerMissingError."""
    folder = npm_peer(SOCKETIO, f"{SOCKETIO}@4")
    with Program([str(node()), str(_SERVERS / "socketio.mjs"), str(folder), str(rooms)]) as program:
        yield Peer(program, socketio=True)


async def _begun(client: Redis) -> TallyStore:
    """Begin an epoch of two counters that are live."""
    store = TallyStore(client, "cdc", feed_length=20_000)
    records = [
        CounterRecord(number, name, CounterState.LIVE, scoped=kind == SPREAD)
        for number, (kind, name) in enumerate(COUNTERS.items(), start=1)
    ]
    epoch = Epoch("bench", "1", 1, 1, "bench")
    await store.begin_epoch("", Stored(epoch, Watermark(Lsn(1))), records, now=1.0)
    return store


def _wait_listening(daemon: Daemon, port: int) -> None:
    late = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if not daemon.running or time.monotonic() > late:
                raise RuntimeError(f"the gateway does not answer: {daemon.log_text()[-2000:]}") from None
            time.sleep(0.02)
        else:
            return
