"""The real edges, built from a configuration."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection
from redis.asyncio import Redis

from cdc_counter.cancellation import end
from cdc_counter.config import Config, PostgresSettings, RedisSettings
from cdc_counter.core.durability import Policy
from cdc_counter.core.fuse import NO_FUSE, Fuse
from cdc_counter.core.lifecycle import Loss
from cdc_counter.core.verifying import Pace
from cdc_counter.metrics import Metrics
from cdc_counter.postgres import janitor
from cdc_counter.postgres.connection import connect, connected, full_conninfo, translated_errors
from cdc_counter.postgres.observer import Observer
from cdc_counter.postgres.recount import Recounter
from cdc_counter.postgres.stream import ReplicationStream
from cdc_counter.runtime.answering import Answering
from cdc_counter.runtime.consumer import Consumer, ConsumerSettings, Rebuild
from cdc_counter.runtime.edges import Observation
from cdc_counter.runtime.following import Follower
from cdc_counter.runtime.healing import Healer
from cdc_counter.runtime.reconciler import Reconciler
from cdc_counter.runtime.seeder import Seeder
from cdc_counter.runtime.upkeep import Upkeep, UpkeepSettings
from cdc_counter.runtime.verifier import Verifier
from cdc_counter.runtime.verifying import ContinuousVerifying
from cdc_counter.runtime.watching import GiveUpSlot, Watch
from cdc_counter.tallies.connection import connect_as
from cdc_counter.tallies.durability import Durability
from cdc_counter.tallies.pages import TallyPages
from cdc_counter.tallies.reader import TallyReader
from cdc_counter.tallies.requests import Requests
from cdc_counter.tallies.store import TallyStore
from cdc_counter.tallies.verifications import Verifications

_HEARTBEAT_PATIENCE: Final = "1s"

_LONGEST_FEEDBACK: Final = 1.0
"""Seconds between status updates at the most; a third of wal_sender_timeout where that is shorter."""

_FULL_SOCKET: Final = 8
"""Times wal_sender_timeout that the server's kernel waits for a full socket: two minutes. A consumer that waits for
Redis does not read either, and is cut off only then, which costs sending again."""


async def _keep_slot(why: Callable[[Observation], str]) -> bool:  # noqa: ARG001  # as GiveUpSlot is called
    return False


class Source(TallyReader):
    """A reader with clients of its own, to be closed when done."""

    def __init__(self, settings: RedisSettings) -> None:
        self._clients = (connect_as(settings), connect_as(settings))
        super().__init__(*self._clients, settings.prefix)

    async def aclose(self) -> None:
        """Close both connections."""
        for client in self._clients:
            await client.aclose()


def source(config: Config) -> Source:
    """Return the reading side; the caller closes it."""
    return Source(config.redis)


@asynccontextmanager
async def tally_store(config: Config) -> AsyncIterator[TallyStore]:
    """Open the writing side for the duration of a block."""
    client = connect_as(config.redis)
    try:
        yield TallyStore(client, config.redis.prefix, config.redis.feed_length)
    finally:
        await client.aclose()


@asynccontextmanager
async def redis_client(config: Config) -> AsyncIterator[Redis]:
    """Open a bare client for the duration of a block."""
    client = connect_as(config.redis)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def requests(config: Config) -> AsyncIterator[Requests]:
    """Open the list of requests and answers for the duration of a block."""
    async with redis_client(config) as client:
        yield Requests(client, config.redis.prefix)


def conninfo(
    settings: PostgresSettings, purpose: str, *, admin: bool = False, session: dict[str, str] | None = None
) -> str:
    """Return what to connect with for a purpose that shows as application_name."""
    return full_conninfo(
        settings.admin_conninfo if admin else settings.conninfo,
        purpose=purpose,
        connect_timeout=settings.connect_timeout,
        settings=session,
    )


def admin_connect(config: Config) -> Callable[[], Awaitable[AsyncConnection[Any]]]:
    """Return a function that opens connections as the installing role."""
    return lambda: connect(conninfo(config.postgres, "init", admin=True))


async def open_stream(config: Config) -> ReplicationStream:
    """Open the replication connection."""
    settings = config.postgres
    seconds = settings.wal_sender_timeout_seconds
    timeout = {
        "wal_sender_timeout": f"{seconds}s",
        # A walsender that is told to end says so to its client first. Where that is frozen, and its socket full, it
        # would wait for ever, and whoever ends it with it: a checkpoint, when the slot has become too old.
        "tcp_user_timeout": f"{_FULL_SOCKET * seconds}s",
    }
    return await ReplicationStream.open(
        full_conninfo(settings.conninfo, purpose="stream", connect_timeout=settings.connect_timeout, settings=timeout),
        slot=settings.slot,
        publication=settings.publication,
        outbox=f"{settings.schema_name}.outbox",
    )


@dataclass(frozen=True, slots=True)
class ConsumingParts:
    """One consumer and what runs beside it."""

    consumer: Consumer
    healer: Healer
    follower: Follower
    upkeep: Upkeep
    watch: Watch
    observer: Observer
    tallies: TallyStore
    reconciler: Reconciler
    verifying: ContinuousVerifying
    answering: Answering


@asynccontextmanager
async def consuming_parts(
    config: Config,
    tallies: TallyStore,
    metrics: Metrics,
    rebuild: Rebuild | None = None,
    *,
    mends: frozenset[Loss] = frozenset(Loss),
    fuse: Fuse = NO_FUSE,
    give_up: GiveUpSlot = _keep_slot,
) -> AsyncIterator[ConsumingParts]:
    """Build a consumer with its healer and upkeep for the duration of a block; `give_up` serves the fuse."""
    settings, stream = config.postgres, config.stream

    async def prune() -> None:
        async with connected(conninfo(settings, "janitor")) as connection:
            with translated_errors("pruning the outbox"):
                await janitor.prune(connection, settings.schema_name, config.outbox.keep_hours)

    # Where somebody holds the outbox the heartbeat is left out, and looking goes on.
    looking = conninfo(settings, "observer", session={"lock_timeout": _HEARTBEAT_PATIENCE})
    observer = Observer(looking, settings.schema_name, settings.slot, settings.publication)
    durability = _durability(config)
    consumer = Consumer(
        ConsumerSettings(
            slot=settings.slot,
            outbox=(settings.schema_name, "outbox"),
            max_cost=stream.max_batch_keys,
            feedback_seconds=min(_LONGEST_FEEDBACK, settings.wal_sender_timeout_seconds / 3),
            silence_seconds=2.0 * settings.wal_sender_timeout_seconds,
            fuse=fuse,
            mends=mends,
        ),
        lambda: open_stream(config),
        observer,
        tallies,
        metrics,
        rebuild,
        durability,
    )
    # A connection of its own: a heartbeat may wait for a synchronous standby.
    onlooker = Observer(conninfo(settings, "watch"), settings.schema_name, settings.slot, settings.publication)
    watch = Watch(stream.status_seconds, consumer, onlooker, fuse, give_up)
    recounter = Recounter(conninfo(settings, "recount"), settings.schema_name)
    upkeep = Upkeep(
        UpkeepSettings(stream.status_seconds, stream.heartbeat_seconds, config.outbox.prune_seconds),
        consumer,
        observer,
        watch,
        tallies,
        metrics,
        prune,
    )
    async with requests(config) as asked, redis_client(config) as client:
        verifications = Verifications(client, config.redis.prefix)
        verifier = Verifier(consumer, recounter, observer, TallyPages(client, config.redis.prefix))
        reconciler = Reconciler(consumer, verifier, tallies, verifications, metrics, stream.max_batch_keys)
        pace = Pace(config.verify.share, config.verify.interval_seconds)
        try:
            yield ConsumingParts(
                consumer,
                Healer(consumer, Seeder(consumer, recounter, observer, tallies)),
                Follower(consumer, tallies),
                upkeep,
                watch,
                observer,
                tallies,
                reconciler,
                ContinuousVerifying(consumer, reconciler, verifications, pace, repair=config.verify.repair),
                Answering(consumer, reconciler, asked),
            )
        finally:
            await observer.close()
            await onlooker.close()
            if durability is not None:
                await durability.aclose()


def _durability(config: Config) -> Durability | None:
    """Return what asks Redis for more than to have applied; None where that is enough."""
    settings = config.redis
    if settings.confirm is Policy.APPLIED:
        return None
    return Durability(
        connect_as(settings),
        settings.prefix,
        settings.confirm,
        replicas=settings.confirm_replicas,
        seconds=settings.confirm_timeout_seconds,
    )


async def consume(consumer: Consumer, stop: asyncio.Event, beside: Iterable["asyncio.Task[None]"]) -> None:
    """Run a consumer until `stop`, then end the tasks beside it: what they wait for will not come any more."""
    await consumer.run(stop)
    await end(beside)
