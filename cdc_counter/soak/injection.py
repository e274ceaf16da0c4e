"""Does to the sandbox what a fault says. Each act is over when it returns; recovery is somebody else's to watch."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from psycopg import AsyncConnection, OperationalError
from redis.exceptions import RedisError

from cdc_counter.errors import CdcCounterError
from cdc_counter.soak.sandbox import Sandbox, children_of, send
from cdc_counter.soak.schedule import Fault, FaultKind

_KEEP_EVERY: int = 3
"""Redis' disk is copied that many faults before it is put back."""

_DROP_ATTEMPTS: int = 50


class Injector:
    """One sandbox's faults."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._since_copy = 0
        self._acts: Mapping[FaultKind, Callable[[Fault], Awaitable[None]]] = {
            FaultKind.DAEMON_KILL: self._daemon_kill,
            FaultKind.DAEMON_STOP: self._daemon_stop,
            FaultKind.DAEMON_TERM: self._daemon_term,
            FaultKind.POSTGRES_KILL: self._postgres_kill,
            FaultKind.POSTGRES_RESTART: self._postgres_restart,
            FaultKind.POSTGRES_STOP: self._postgres_stop,
            FaultKind.WALSENDER_STOP: self._walsender_stop,
            FaultKind.WALSENDER_TERMINATE: self._walsender_terminate,
            FaultKind.REDIS_KILL: self._redis_kill,
            FaultKind.REDIS_STOP: self._redis_stop,
            FaultKind.REDIS_RESTART: self._redis_restart,
            FaultKind.SCRIPT_FLUSH: self._script_flush,
            FaultKind.LINK_POSTGRES_CUT: self._link_postgres_cut,
            FaultKind.LINK_POSTGRES_STALL: self._link_postgres_stall,
            FaultKind.LINK_REDIS_CUT: self._link_redis_cut,
            FaultKind.LINK_REDIS_STALL: self._link_redis_stall,
            FaultKind.LINK_REDIS_LOST_REPLY: self._link_redis_lost_reply,
            FaultKind.FLUSHALL: self._flushall,
            FaultKind.SLOT_DROP: self._slot_drop,
            FaultKind.REDIS_RESTORE_OLDER: self._redis_restore_older,
        }

    async def inject(self, fault: Fault) -> None:
        """Do it."""
        if self._since_copy % _KEEP_EVERY == 0:
            await asyncio.to_thread(self._sandbox.copy_redis)
        self._since_copy += 1
        await self._acts[fault.kind](fault)

    async def _daemon_kill(self, _: Fault) -> None:
        self._sandbox.daemon.kill()

    async def _daemon_term(self, _: Fault) -> None:
        self._sandbox.daemon.terminate()

    async def _daemon_stop(self, fault: Fault) -> None:
        self._sandbox.daemon.freeze()
        await asyncio.sleep(fault.seconds)
        self._sandbox.daemon.thaw()

    async def _postgres_kill(self, _: Fault) -> None:
        await asyncio.to_thread(self._sandbox.postgres.kill)
        await asyncio.to_thread(self._sandbox.postgres.start)

    async def _postgres_restart(self, _: Fault) -> None:
        await asyncio.to_thread(self._sandbox.postgres.restart, "fast")

    async def _postgres_stop(self, fault: Fault) -> None:
        """Stop every process that serves a client, the writers' too."""
        await self._stop_processes(fault, "postgres: ")

    async def _walsender_stop(self, fault: Fault) -> None:
        await self._stop_processes(fault, "walsender")

    async def _stop_processes(self, fault: Fault, name: str) -> None:
        stopped = [pid for pid, words in children_of(self._sandbox.postgres).items() if name in words]
        for pid in stopped:
            send(pid, signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        for pid in stopped:
            send(pid, signal.SIGCONT)

    async def _walsender_terminate(self, _: Fault) -> None:
        await self._sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")

    async def _redis_kill(self, _: Fault) -> None:
        await asyncio.to_thread(self._sandbox.redis.kill)
        await asyncio.to_thread(self._sandbox.redis.start)

    async def _redis_restart(self, _: Fault) -> None:
        await asyncio.to_thread(self._sandbox.redis.restart)

    async def _redis_stop(self, fault: Fault) -> None:
        send(self._sandbox.redis.pid, signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        send(self._sandbox.redis.pid, signal.SIGCONT)

    async def _script_flush(self, _: Fault) -> None:
        await self._redis("SCRIPT", "FLUSH")

    async def _flushall(self, _: Fault) -> None:
        await self._redis("FLUSHALL")

    async def _redis_restore_older(self, _: Fault) -> None:
        await asyncio.to_thread(self._sandbox.redis.kill)
        await asyncio.to_thread(self._sandbox.restore_redis)
        await asyncio.to_thread(self._sandbox.redis.start)

    async def _slot_drop(self, _: Fault) -> None:
        slot = self._sandbox.config.postgres.slot
        for _attempt in range(_DROP_ATTEMPTS):
            # Whoever streams it comes back at once, and may be first.
            await self._sql(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", slot
            )
            try:
                await self._sql(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", slot
                )
            except OperationalError:
                await asyncio.sleep(0.02)
            else:
                return
        raise CdcCounterError(f"slot {slot!r} could not be dropped: it is active again each time")

    async def _link_postgres_cut(self, fault: Fault) -> None:
        await self._cut(self._sandbox.postgres_link, fault)

    async def _link_redis_cut(self, fault: Fault) -> None:
        await self._cut(self._sandbox.redis_link, fault)

    async def _link_postgres_stall(self, fault: Fault) -> None:
        await self._stall(self._sandbox.postgres_link, fault)

    async def _link_redis_stall(self, fault: Fault) -> None:
        await self._stall(self._sandbox.redis_link, fault)

    async def _link_redis_lost_reply(self, fault: Fault) -> None:
        """Let requests through and lose the end of an answer: what was asked for may have been done."""
        self._sandbox.redis_link.cut_after(fault.number % 400, "from")
        await asyncio.sleep(fault.seconds / 2)
        self._sandbox.redis_link.pass_on()
        self._sandbox.redis_link.cut()

    async def _cut(self, link: Any, fault: Fault) -> None:
        """Reset every connection; now and then there are no new ones for a while, or a byte too few came through."""
        match fault.number % 3:
            case 0:
                link.cut()
            case 1:
                link.refuse()
                link.cut()
                await asyncio.sleep(fault.seconds)
                link.pass_on()
            case _:
                link.cut_after(fault.number, "to")
                await asyncio.sleep(fault.seconds / 2)
                link.pass_on()
                link.cut()

    async def _stall(self, link: Any, fault: Fault) -> None:
        """Keep bytes back, of both directions or one; in the end they arrive, or the connection is reset."""
        link.hold((None, "to", "from")[fault.number % 3])
        await asyncio.sleep(fault.seconds)
        if fault.number % 2:
            link.cut()
        link.pass_on()

    async def _sql(self, query: str, *parameters: str) -> None:
        async with await AsyncConnection.connect(self._sandbox.dsn, autocommit=True) as connection:
            await connection.execute(query.encode(), parameters)

    async def _redis(self, *words: str) -> None:
        async with self._sandbox.redis_client() as client:
            try:
                await client.execute_command(*words)  # type: ignore[no-untyped-call]
            except RedisError as error:
                raise CdcCounterError(f"redis: {' '.join(words)}: {error}") from error
