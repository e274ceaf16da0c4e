"""The last verification of each counter, and the journal of repairs, as kept in Redis."""

import logging
from typing import Any

import orjson
from redis.asyncio import Redis

from cdc_counter.core.verification import Verification
from cdc_counter.tallies.connection import command, translated_errors
from cdc_counter.tallies.keys import Keys

_log = logging.getLogger(__name__)


class Verifications:
    """Reads and writes one prefix."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._keys = Keys(prefix)

    async def note(self, verification: Verification) -> None:
        """Store a counter's last verification."""
        data = orjson.dumps(verification.shortened().to_json(), option=orjson.OPT_NON_STR_KEYS)
        with translated_errors("noting a verification"):
            await command(self._client, "HSET", self._keys.verified, verification.counter, data)

    async def all(self) -> dict[str, Verification]:
        """Return what is stored, by counter; what can't be read counts as not verified."""
        with translated_errors("reading verifications"):
            raw: dict[bytes, bytes] = await command(self._client, "HGETALL", self._keys.verified)
        found = {}
        for name, data in raw.items():
            if (verification := parse_verification(data)) is not None:
                found[name.decode()] = verification
        return found

    async def repairs(self, count: int) -> list[dict[str, Any]]:
        """Return the journal's newest entries, newest first: counter, by, at, version, and changes.

        A change is [scope, bucket, old, new]; the values are decimal text.
        """
        with translated_errors("reading the journal of repairs"):
            raw: list[tuple[bytes, dict[bytes, bytes]]] = await command(
                self._client, "XREVRANGE", self._keys.repairs, "+", "-", "COUNT", count
            )
        return [
            {
                **orjson.loads(fields[b"repair"]),
                "version": fields[b"version"].decode(),
                "changes": orjson.loads(fields[b"changes"]),
            }
            for _, fields in raw
        ]


def parse_verification(data: bytes | None) -> Verification | None:
    """Return what was stored, or None: nothing was, or it is not ours."""
    if data is None:
        return None
    try:
        return Verification.from_json(orjson.loads(data))
    except (TypeError, KeyError, ValueError) as error:
        _log.warning("a stored verification can't be read: %r", error)
        return None
