"""What verifying reads and writes in Redis: pages with their watermark, requests and answers, the repairs made."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from cdc_counter.core.drift import KeyDrift
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied, Conflict, Move, repair_field
from cdc_counter.core.paging import NamedBuckets, PageRequest, PartOfScope, WholeScopes
from cdc_counter.core.reading import Change, VerifiedAt
from cdc_counter.core.request import Finished, Progress, Request, Wish
from cdc_counter.core.verification import SHOWN, Verdict, Verification
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.errors import ProtocolError, UnfitTallyError, UnreachableError
from cdc_counter.tallies.connection import command
from cdc_counter.tallies.keys import Keys
from cdc_counter.tallies.pages import TallyPages
from cdc_counter.tallies.reader import TallyReader
from cdc_counter.tallies.requests import Requests
from cdc_counter.tallies.store import TallyStore
from cdc_counter.tallies.verifications import Verifications
from tests.integration.tallies.conftest import COUNTER, PREFIX, begin, group, moves

KEYS = Keys(PREFIX)
LARGE = {str(number): number + 1 for number in range(5000)}


@pytest.fixture
def pages(client: Redis) -> TallyPages:
    return TallyPages(client, PREFIX)


async def requests_for(pages: TallyPages, *scopes: str) -> list[PageRequest]:
    return [request async for request in pages.requests(COUNTER, scopes)]


async def test_small_scopes_are_read_whole_and_together(store: TallyStore, pages: TallyPages) -> None:
    await store.apply("e1", moves(0, 100), [group({"7": 3}, "42"), group({"8": 1, "9": 2}, "odd:* scope")])
    assert sorted(await pages.scopes(COUNTER)) == ["42", "odd:* scope"]
    (request,) = await requests_for(pages, "42", "odd:* scope", "nothing")
    page = await pages.page(COUNTER, request)
    assert (page.epoch, page.watermark) == ("e1", Watermark(Lsn(100)))
    assert page.tallies == {"42": {"7": 3}, "odd:* scope": {"8": 1, "9": 2}, "nothing": {}}


async def test_a_large_scope_is_read_in_parts_that_add_up(store: TallyStore, pages: TallyPages) -> None:
    await store.apply("e1", moves(0, 100), [group(LARGE, "big"), group({"7": 3}, "small")])
    assert await requests_for(pages, "big", "small") == [PartOfScope("big"), WholeScopes(("small",))]
    found: dict[str, int] = {}
    cursor, count = 0, 0
    while True:
        page = await pages.page(COUNTER, PartOfScope("big", cursor))
        found.update(page.tallies["big"])
        cursor, count = page.cursor, count + 1
        if cursor == 0:
            break
    assert found == LARGE
    assert count > 1


async def test_named_buckets_that_are_gone_are_zero(store: TallyStore, pages: TallyPages) -> None:
    await store.apply("e1", moves(0, 100), [group({"7": 3}, "42")])
    page = await pages.page(COUNTER, NamedBuckets("42", ("7", "8", "é")))
    assert page.tallies == {"42": {"7": 3, "8": 0, "é": 0}}


async def test_a_page_between_two_parts_of_a_transaction_says_so(store: TallyStore, pages: TallyPages) -> None:
    half = Watermark(Lsn(100), Partial(7, 2))
    await store.apply("e1", moves(Watermark(Lsn(0)), half), [group({"7": 3}, "42")])
    assert (await pages.page(COUNTER, WholeScopes(("42",)))).watermark == half


async def test_what_is_no_tally_is_named(store: TallyStore, pages: TallyPages, client: Redis) -> None:
    await command(client, "HSET", KEYS.tally(COUNTER, "42"), "7", "many")
    with pytest.raises(UnfitTallyError, match="42"):
        await pages.page(COUNTER, WholeScopes(("42",)))
    await command(client, "SET", KEYS.tally(COUNTER, "43"), "text")
    with pytest.raises(UnfitTallyError, match="not a hash"):
        await pages.page(COUNTER, WholeScopes(("43",)))


async def test_without_tallies_nothing_is_taken_for_zero(pages: TallyPages) -> None:
    with pytest.raises(UnreachableError, match="no tallies"):
        await pages.page(COUNTER, WholeScopes(("42",)))


async def test_a_repair_is_journaled_with_old_and_new_values_and_shown_to_readers(
    store: TallyStore, reader: TallyReader, client: Redis
) -> None:
    feed = reader.follow()
    await anext(feed)
    await store.apply("e1", moves(0, 100), [group({"7": 3, "8": 1}, "42")])
    await anext(feed)
    still = [*moves(100, 100), Move(repair_field(COUNTER), "", "first")]
    fix = [group({"7": -2, "8": -1}, "42")]
    assert await store.apply("e1", still, fix, repair='{"by": "me"}') == Applied()
    (change,) = await anext(feed)
    assert isinstance(change, Change)
    assert (change.values, change.version) == ({"7": 1, "8": 0}, Lsn(100))
    # The reply was lost: asked again it is not done again.
    assert await store.apply("e1", still, fix, repair='{"by": "me"}') == Applied()
    assert (await reader.read(COUNTER, "42")).values == {"7": 1}
    (entry,) = await Verifications(client, PREFIX).repairs(10)
    assert (entry["by"], entry["version"]) == ("me", Lsn(100).version)
    assert entry["changes"] == [["42", "7", "3", "1"], ["42", "8", "1", "0"]]


async def test_a_repair_is_not_done_when_the_watermark_is_another_one(store: TallyStore, client: Redis) -> None:
    await store.apply("e1", moves(0, 100), [group({"7": 3}, "42")])
    still = [*moves(90, 90), Move(repair_field(COUNTER), "", "first")]
    assert await store.apply("e1", still, [group({"7": -2}, "42")], repair="{}") == Conflict(
        "watermark", Lsn(100).version
    )
    assert await Verifications(client, PREFIX).repairs(10) == []


async def test_the_last_verification_reaches_readers_until_the_counter_is_another_one(
    store: TallyStore, reader: TallyReader, client: Redis
) -> None:
    verifications = Verifications(client, PREFIX)
    keys = tuple(KeyDrift("-", str(number), 1, 0) for number in range(SHOWN + 1))
    found = Verification(
        COUNTER, 1, 0.0, Verdict.DRIFT, at=5.0, seconds=1.0, lsn="0/64", drifted=len(keys), drifts=keys
    )
    await verifications.note(found)
    assert (await verifications.all())[COUNTER] == found.shortened()
    assert (await reader.read(COUNTER, "42")).verified_at is None
    await verifications.note(replace(found, verdict=Verdict.EQUAL, drifts=(), drifted=0))
    assert (await reader.read(COUNTER, "42")).verified_at == VerifiedAt(5.0, "0/64")
    await begin(store, replacing="e1", identity="e2", now=6.0)
    record = (await store.counters())[COUNTER]
    await store.set_counter("e2", replace(record, since=6.0))
    assert (await reader.read(COUNTER, "42")).verified_at is None


async def test_a_damaged_verification_counts_as_none(store: TallyStore, reader: TallyReader, client: Redis) -> None:
    await command(client, "HSET", KEYS.verified, COUNTER, "{}")
    assert await Verifications(client, PREFIX).all() == {}
    assert (await reader.read(COUNTER, "42")).verified_at is None


REQUEST = Request("r1", Wish.VERIFY, (COUNTER,), None, "me")


async def test_a_request_is_taken_once_and_its_answers_come_in_order(client: Redis) -> None:
    requests = Requests(client, PREFIX)
    await requests.ask(REQUEST, 60)
    assert await requests.take() == REQUEST
    assert await requests.take() is None
    for answer in (Progress(COUNTER, "counting"), Finished()):
        await requests.tell(REQUEST, answer)
    assert [await requests.hear(REQUEST) for _ in range(3)] == [Progress(COUNTER, "counting"), Finished(), None]


async def test_requests_that_nobody_waits_for_and_foreign_ones_are_dropped(client: Redis) -> None:
    requests = Requests(client, PREFIX)
    await requests.ask(REQUEST, patience=-1)
    assert await requests.take() is None
    for text in ("[]", "{", '{"wish": "drop"}'):
        await command(client, "RPUSH", KEYS.requests, text)
        assert await requests.take() is None
    await command(client, "RPUSH", KEYS.answers("r1"), "[]")
    with pytest.raises(ProtocolError):
        await requests.hear(REQUEST)


async def test_what_nobody_fetches_vanishes(client: Redis) -> None:
    requests = Requests(client, PREFIX)
    await requests.ask(REQUEST, 60)
    await requests.tell(REQUEST, Finished())
    lives = await asyncio.gather(*(command(client, "TTL", key) for key in (KEYS.requests, KEYS.answers("r1"))))
    assert all(0 < life <= 60 for life in lives)
