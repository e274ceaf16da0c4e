"""Asks Redis to make the tallies durable through an LSN, by the policy that is configured.

One question covers every commit before it. It is asked on one connection, whole, or does not count: the script sees
that the tallies of this epoch include the LSN and writes something after it; WAIT or WAITAOF then wait for that write
of this very connection. Were the server demoted, synchronized from another and promoted again in between, its
connections left open, the replies could be about another history: then its replication id has changed.
"""

from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from cdc_counter.core.durability import NotKept, Policy, judge_replicas
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied, Conflict, OtherEpoch
from cdc_counter.errors import NotReadyError
from cdc_counter.tallies.connection import command, translated_errors
from cdc_counter.tallies.keys import Keys
from cdc_counter.tallies.lease import Lease, leased
from cdc_counter.tallies.scripts import Script

FIRST_WITH_WAITAOF: Final = (7, 2)
NO_WAITAOF: Final = "redis.confirm is fsynced, and the server does not know WAITAOF: it came with Redis 7.2"
USE_REPLICATED: Final = 'confirm = "replicated"    # in [redis]; or upgrade to Redis 7.2 or later, or to Valkey'


@dataclass(frozen=True, slots=True)
class History:
    """Which writes a server's offsets count: a promotion begins another."""

    role: str
    identity: str


class Durability:
    """Asks for one prefix, with a client of its own.

    `replicas` must have it, beside the master; `seconds` is how long is waited for it.
    """

    def __init__(self, client: Redis, prefix: str, policy: Policy, *, replicas: int, seconds: float) -> None:
        self._client = client
        self._keys = Keys(prefix)
        self._policy = policy
        self._replicas = replicas
        self.seconds = seconds
        self._script = Script.load("durable")

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def ask(self, epoch: str, lsn: Lsn) -> Applied | NotKept | Conflict | OtherEpoch:
        """Return Applied when the tallies are durable through `lsn`; Conflict and OtherEpoch when Redis went back.

        Raises NotReadyError where the server can't do it at all.
        """
        with translated_errors("making the tallies durable"):
            async with leased(self._client) as lease:
                before = await _history(lease)
                match await self._script.call(lease, [self._keys.meta], [epoch, lsn.version]):
                    case ["applied"]:
                        lacking = await self._wait(lease)
                    case ["behind", stored]:
                        return Conflict("watermark", stored)
                    case reply:
                        return OtherEpoch(reply[-1])
                if lacking is None and (before.role != "master" or await _history(lease) != before):
                    lacking = NotKept("the server was promoted or demoted meanwhile")
        return lacking or Applied()

    async def _wait(self, lease: Lease) -> NotKept | None:
        milliseconds = int(self.seconds * 1000)
        if self._policy is Policy.REPLICATED:
            answer = await command(lease, "WAIT", self._replicas, milliseconds)
        else:
            try:
                answer = await command(lease, "WAITAOF", 1, self._replicas, milliseconds)
            except ResponseError as error:
                if "unknown command" in str(error).lower():
                    raise NotReadyError(NO_WAITAOF, hint=USE_REPLICATED) from error
                if "appendonly" in str(error):
                    return NotKept("the server has no append-only file: appendonly is no")
                raise
        return judge_replicas(self._policy, self._replicas, answer, self.seconds)


async def _history(lease: Lease) -> History:
    text: bytes = await command(lease, "INFO", "replication")
    facts = dict(line.partition(":")[::2] for line in text.decode().splitlines())
    return History(facts.get("role", ""), facts.get("master_replid", ""))
