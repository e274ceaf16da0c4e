"""Asking the running consumer through Redis: a list of requests, and a list of answers for each.

Both sides wait with blocking reads on clients of their own. Answers vanish by themselves when nobody fetches them.
"""

import logging
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from cdc_counter.core.request import Answer, Request, answer_from_json, answer_to_json
from cdc_counter.errors import ProtocolError
from cdc_counter.tallies.connection import command, translated_errors
from cdc_counter.tallies.keys import Keys

_log = logging.getLogger(__name__)

_KEPT_SECONDS: Final = 60
"""How long an answer waits for whoever asked."""

_WAIT_SECONDS: Final = 1.0
"""One blocking read; well below the connection's timeout."""


class Requests:
    """One prefix. `client` must not be shared: its reads block."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._keys = Keys(prefix)

    async def ask(self, request: Request, patience: float) -> None:
        """Put a request where the consumer looks; it is taken within `patience` seconds or never."""
        with translated_errors("asking the consumer"):
            until = await self._now() + patience
            posted = orjson.dumps({"request": request.to_json(), "until": until})
            await command(self._client, "RPUSH", self._keys.requests, posted)
            await command(self._client, "EXPIRE", self._keys.requests, _KEPT_SECONDS)

    async def take(self) -> Request | None:
        """Wait a second for the next request; None when there is none. Outdated and foreign ones are dropped."""
        raw = await self._pop(self._keys.requests, "waiting for requests")
        if raw is None:
            return None
        with translated_errors("waiting for requests"):
            now = await self._now()
        try:
            posted = orjson.loads(raw)
            request = Request.from_json(posted["request"])
            outdated = posted["until"] < now
        except (TypeError, KeyError, ValueError) as error:
            _log.warning("a request that can't be read was dropped: %r", error)
            return None
        return None if outdated else request

    async def tell(self, request: Request, answer: Answer) -> None:
        """Answer, once or many times."""
        key = self._keys.answers(request.id)
        with translated_errors("answering a request"):
            await command(self._client, "RPUSH", key, orjson.dumps(answer_to_json(answer)))
            await command(self._client, "EXPIRE", key, _KEPT_SECONDS)

    async def hear(self, request: Request) -> Answer | None:
        """Wait a second for the next answer; None when there is none. Raises ProtocolError on what is none."""
        raw = await self._pop(self._keys.answers(request.id), "waiting for an answer")
        if raw is None:
            return None
        try:
            return answer_from_json(orjson.loads(raw))
        except (TypeError, KeyError, ValueError) as error:
            raise ProtocolError(f"the consumer's answer can't be read: {error!r}") from error

    async def _now(self) -> float:
        """Return unix seconds by Redis, whose clock both sides share."""
        seconds, microseconds = await command(self._client, "TIME")
        return int(seconds) + int(microseconds) / 1e6

    async def _pop(self, key: str, what: str) -> bytes | None:
        with translated_errors(what):
            reply: Any = await command(self._client, "BLPOP", key, str(_WAIT_SECONDS))
        return None if reply is None else reply[1]
