"""Looks at the deployment from outside: what the daemon reports, every counter's state, every tally, the truth."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from psycopg import AsyncConnection, IsolationLevel, sql

from cdc_counter.config import Config
from cdc_counter.core.counters import CounterRecord
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import CounterState
from cdc_counter.core.status import Phase, StreamStatus
from cdc_counter.resources import sql_blocks
from cdc_counter.soak.sandbox import Sandbox
from cdc_counter.tallies.connection import command
from cdc_counter.tallies.keys import Keys

Counted = dict[tuple[str, str, str], int]
"""Counter, scope and bucket -> value; zeros absent."""

_HONEST: Final = "honest "
_SCAN: Final = 1000
_LEDGER_KEYS: Final = 4


@dataclass(frozen=True, slots=True)
class Sight:
    """What Redis says at one moment. `watermark` None: nothing is there."""

    status: StreamStatus | None
    records: Mapping[str, CounterRecord]
    watermark: Lsn | None

    def not_recovered(self, goal: Lsn, since: float, counters: int, *, all_live: bool = True) -> str | None:
        """Return what is missing until all is well again after `since` (unix seconds), None when nothing is."""
        if self.status is None or self.status.reported_at < since:
            return "no report of the daemon"
        if self.status.phase is not Phase.STREAMING:
            return f"the daemon is {self.status.phase}: {self.status.detail}"
        if self.watermark is None or self.watermark < goal:
            return f"the watermark is {self.watermark}, not yet {goal}"
        if len(self.records) < counters:
            return f"{len(self.records)} of {counters} counters are known"
        waiting = [
            f"{r.name} is {r.state}: {r.reason}" for r in self.records.values() if r.state is not CounterState.LIVE
        ]
        return "; ".join(waiting) or None if all_live else None


class Observation:
    """Reads straight from the sandbox's servers, around the links."""

    def __init__(self, sandbox: Sandbox, *, honest: bool) -> None:
        self._sandbox = sandbox
        self._config: Config = sandbox.config
        self._keys = Keys(self._config.redis.prefix)
        self._honest = honest

    async def look(self) -> Sight:
        """Return what Redis says now; raises RedisError."""
        async with self._sandbox.redis_client() as client, client.pipeline(transaction=True) as pipe:
            pipe.get(self._keys.status)
            pipe.hgetall(self._keys.counters)
            pipe.hget(self._keys.meta, "watermark")
            status, records, watermark = await pipe.execute()
        return Sight(
            None if status is None else StreamStatus.from_json(orjson.loads(status)),
            {name.decode(): CounterRecord.from_json(orjson.loads(raw)) for name, raw in records.items()},
            None if watermark is None else Lsn.from_version(watermark.decode()),
        )

    async def end_of_wal(self) -> Lsn:
        """Return a position after every commit so far, and have it written out."""
        async with await AsyncConnection.connect(self._sandbox.dsn, autocommit=True) as connection:
            row = await (await connection.execute("SELECT pg_current_wal_insert_lsn()::text")).fetchone()
            await connection.execute("SELECT pg_logical_emit_message(true, 'soak', '')")
        return Lsn.parse(row[0] if row else "")

    async def tallies(self) -> Counted:
        """Return every tally that Redis has, whatever it belongs to."""
        found: Counted = {}
        start = f"{self._config.redis.prefix}:tally:"
        async with self._sandbox.redis_client() as client:
            async for key in client.scan_iter(match=f"{start}*", count=_SCAN):
                counter, _, scope = key.decode().removeprefix(start).partition(":")
                values: dict[bytes, bytes] = await command(client, "HGETALL", key)
                found |= {(counter, scope, bucket.decode()): int(value) for bucket, value in values.items()}
        return found

    async def truth(self) -> Counted:
        """Return every key's true value in one snapshot.

        Of the soak's own tables by plain SQL that shares nothing with what is installed; of others by the truth views.
        """
        found: Counted = {}
        async with await AsyncConnection.connect(self._sandbox.dsn) as connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            for definition in self._config.counters:
                cursor = await connection.execute(self._recount(definition.name))
                found |= {
                    (definition.name, scope, bucket): int(value) async for scope, bucket, value in cursor if value
                }
        return found

    async def ledger(self, keys: Iterable[tuple[str, str, str]]) -> list[str]:
        """Return a line per transaction that changed the first of some keys, as far as the outbox still has them."""
        found = []
        ledger = sql.Identifier(self._config.postgres.schema_name, "ledger")
        query = sql.SQL(
            "SELECT xid::text, delta::text FROM {} WHERE counter = %s AND scope = %s AND bucket = %s ORDER BY xid"
        ).format(ledger)
        async with await AsyncConnection.connect(self._sandbox.dsn) as connection:
            for key in list(keys)[:_LEDGER_KEYS]:
                cursor = await connection.execute(query, key)
                found += [f"{' '.join(key)} xid {xid} delta {delta}" async for xid, delta in cursor]
        return found

    def _recount(self, counter: str) -> Any:
        if self._honest:
            return sql_blocks("soak")[_HONEST + counter].encode()
        view = sql.Identifier(self._config.postgres.schema_name, counter)
        return sql.SQL("SELECT scope, bucket, value FROM {}").format(view)


def differences(tallies: Counted, truth: Counted) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return key -> (tally, truth) where they differ; in both directions."""
    keys = tallies.keys() | truth.keys()
    return {k: (tallies.get(k, 0), truth.get(k, 0)) for k in sorted(keys) if tallies.get(k, 0) != truth.get(k, 0)}


def unix_now() -> float:
    """Return the unix second, as the daemon's reports have it."""
    return time.time()
