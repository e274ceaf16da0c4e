"""Reads tallies for verifying: every piece with epoch and watermark of the same moment, none that keeps Redis busy."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from cdc_counter.cancellation import honour_cancellation
from cdc_counter.core.paging import NamedBuckets, PageRequest, PartOfScope, TallyPage, WholeScopes
from cdc_counter.core.watermark import Watermark
from cdc_counter.errors import UnfitTallyError, UnreachableError
from cdc_counter.tallies.connection import translated_errors
from cdc_counter.tallies.keys import Keys
from cdc_counter.tallies.scanning import matching_keys

_BUCKETS: Final = 2000
"""Buckets read in one step of Redis: about 1 ms."""

_SCOPES: Final = 200
"""Hashes read in one step, however small."""


class TallyPages:
    """Reads one prefix."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._keys = Keys(prefix)

    async def scopes(self, counter: str) -> list[str]:
        """Return every scope that has a tally: all that were there from the start of the call to its end, at least."""
        prefix = self._keys.tally(counter, "")
        found: dict[str, None] = {}
        async for key in matching_keys(self._client, self._keys.all_tallies(counter)):
            # What is not UTF-8 is nobody's scope.
            found[key.decode(errors="replace").removeprefix(prefix)] = None
            honour_cancellation()
        return list(found)

    async def requests(self, counter: str, scopes: Sequence[str]) -> AsyncIterator[PageRequest]:
        """Yield what to ask for, to see all of these scopes; a part of a scope is followed by its cursor."""
        for first in range(0, len(scopes), _SCOPES):
            chunk = scopes[first : first + _SCOPES]
            small: list[str] = []
            buckets = 0
            for scope, size in zip(chunk, await self._sizes(counter, chunk), strict=True):
                if size > _BUCKETS:
                    yield PartOfScope(scope)
                    continue
                if small and buckets + size > _BUCKETS:
                    yield WholeScopes(tuple(small))
                    small, buckets = [], 0
                small.append(scope)
                buckets += size
            if small:
                yield WholeScopes(tuple(small))

    async def page(self, counter: str, request: PageRequest) -> TallyPage:
        """Read one page; raises UnfitTallyError when what is there is no tally, UnreachableError without tallies."""
        with translated_errors("reading tallies"):
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hmget(self._keys.meta, ["epoch", "watermark", "partial"])
                self._ask(pipe, counter, request)
                try:
                    (epoch, watermark, partial), *replies = await pipe.execute()
                except ResponseError as error:
                    if "WRONGTYPE" in str(error):
                        raise UnfitTallyError(f"a tally of {counter} is not a hash: {error}") from error
                    raise
                honour_cancellation()
        if epoch is None or watermark is None:
            raise UnreachableError(f"redis has no tallies under prefix {self._keys.prefix!r}")
        cursor, tallies = self._tallies(counter, request, replies)
        stored = Watermark.from_stored(watermark.decode(), (partial or b"").decode())
        return TallyPage(epoch.decode(), stored, tallies, cursor)

    async def _sizes(self, counter: str, scopes: Sequence[str]) -> list[int]:
        with translated_errors("measuring tallies"):
            async with self._client.pipeline(transaction=False) as pipe:
                for scope in scopes:
                    pipe.hlen(self._keys.tally(counter, scope))
                replies = await pipe.execute(raise_on_error=False)
                honour_cancellation()
        # What is not a hash is noticed where it is read.
        return [size if isinstance(size, int) else 0 for size in replies]

    def _ask(self, pipe: Any, counter: str, request: PageRequest) -> None:
        match request:
            case WholeScopes(scopes):
                for scope in scopes:
                    pipe.hgetall(self._keys.tally(counter, scope))
            case PartOfScope(scope, cursor):
                pipe.hscan(self._keys.tally(counter, scope), cursor, count=_BUCKETS)
            case NamedBuckets(scope, buckets):
                pipe.hmget(self._keys.tally(counter, scope), list(buckets))

    def _tallies(
        self, counter: str, request: PageRequest, replies: Sequence[Any]
    ) -> tuple[int, dict[str, dict[str, int]]]:
        match request:
            case WholeScopes(scopes):
                pairs = zip(scopes, replies, strict=True)
                return 0, {scope: self._values(counter, scope, values) for scope, values in pairs}
            case PartOfScope(scope):
                ((cursor, values),) = replies
                return int(cursor), {scope: self._values(counter, scope, values)}
            case NamedBuckets(scope, buckets):
                found = dict(zip((bucket.encode() for bucket in buckets), replies[0], strict=True))
                return 0, {scope: self._values(counter, scope, {b: v or b"0" for b, v in found.items()})}

    def _values(self, counter: str, scope: str, raw: Mapping[bytes, bytes]) -> dict[str, int]:
        try:
            return {bucket.decode(): int(value) for bucket, value in raw.items()}
        except ValueError as error:
            raise UnfitTallyError(f"redis key {self._keys.tally(counter, scope)!r} holds no tally: {error}") from error
