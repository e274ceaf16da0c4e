"""Redis 6.2 of the wheel and, where this machine has one, a newer one; an epoch begun in it."""

import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from redis.asyncio import Redis

from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.lifecycle import Epoch, Stored
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Move, TallyGroup
from cdc_counter.core.reading import CounterState
from cdc_counter.core.watermark import Watermark
from cdc_counter.embedded import RedisServer
from cdc_counter.tallies.connection import command, connect
from cdc_counter.tallies.reader import TallyReader
from cdc_counter.tallies.store import TallyStore
from tests.rig.redis import flush

PREFIX = "t"
EPOCH = Epoch("e1", "7000", 16_384, 1, "slot")
COUNTER = "open_by_channel"
RECORD = CounterRecord(1, COUNTER, CounterState.LIVE, scoped=True)

OTHER_PROGRAM = shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
PROGRAMS = {"wheel": None} | ({"debian": Path(OTHER_PROGRAM)} if OTHER_PROGRAM else {})


@pytest.fixture(scope="session", params=list(PROGRAMS))
def any_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Start each Redis that this machine has."""
    with RedisServer(program=PROGRAMS[request.param], settings={"slowlog-log-slower-than": "0"}) as server:
        yield server


@pytest.fixture
def server(any_redis: RedisServer) -> RedisServer:
    """Give it running and empty."""
    any_redis.start()
    flush(any_redis.port)
    return any_redis


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    opened = connect(server.url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def store(client: Redis) -> TallyStore:
    """Give a store whose epoch has begun at LSN 0."""
    made = TallyStore(client, PREFIX, 20_000)
    await begin(made)
    return made


@pytest.fixture
async def reader(client: Redis, server: RedisServer) -> AsyncIterator[TallyReader]:
    blocking = connect(server.url)
    yield TallyReader(client, blocking, PREFIX)
    await blocking.aclose()


async def begin(store: TallyStore, replacing: str = "", identity: str = "e1", now: float = 1.0) -> None:
    epoch = Epoch(identity, EPOCH.system_identifier, EPOCH.database_oid, EPOCH.timeline, EPOCH.slot)
    await store.begin_epoch(replacing, Stored(epoch, Watermark(Lsn(0))), [RECORD], now)


def moves(before: int | Watermark, after: int | Watermark) -> list[Move]:
    """Return what a step's call compares and sets."""
    one, two = (Watermark(Lsn(mark)) if isinstance(mark, int) else mark for mark in (before, after))
    return [Move("watermark", one.lsn.version, two.lsn.version), Move("partial", one.partial_text, two.partial_text)]


def group(deltas: Mapping[str, int], scope: str = "42", *, hidden: bool = False) -> TallyGroup:
    return TallyGroup(COUNTER, scope, deltas, hidden=hidden)


async def tally(client: Redis, scope: str = "42") -> dict[str, int]:
    """Return what an application would read."""
    raw: dict[bytes, bytes] = await command(client, "HGETALL", f"{PREFIX}:tally:{COUNTER}:{scope}")
    return {bucket.decode(): int(value) for bucket, value in raw.items()}


async def everything(client: Redis) -> dict[bytes, object]:
    """Return all keys with their exact contents."""
    found: dict[bytes, object] = {}
    for key in sorted(await command(client, "KEYS", "*")):
        kind = await command(client, "TYPE", key)
        match kind:
            case b"hash":
                found[key] = await command(client, "HGETALL", key)
            case b"stream":
                found[key] = await command(client, "XRANGE", key, "-", "+")
            case b"list":
                found[key] = await command(client, "LRANGE", key, 0, -1)
            case _:
                found[key] = await command(client, "DUMP", key)
    return found
