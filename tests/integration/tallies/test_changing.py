"""Records of counters that several processes change at once, and what removed counters leave."""

from dataclasses import replace

from redis.asyncio import Redis

from cdc_counter.core.changes import Beginning
from cdc_counter.core.outcome import Applied, Conflict, OtherEpoch
from cdc_counter.core.reading import CounterState
from cdc_counter.tallies.store import TallyStore
from tests.integration.tallies.conftest import COUNTER, RECORD, begin, everything, group, moves

ALTERED = replace(RECORD, id=RECORD.id + 1, state=CounterState.REBUILDING)


async def test_altered_counter_is_not_written_over_by_whoever_knows_the_old_one(store: TallyStore) -> None:
    assert await store.begin_counter("e1", Beginning(ALTERED, RECORD.id)) == Applied()
    late = RECORD.moved_to(CounterState.LIVE, 2.0)
    assert await store.set_counter("e1", late) == Conflict(f"counter {COUNTER}", str(ALTERED.id))
    assert await store.counters() == {COUNTER: ALTERED}


async def test_removed_counter_is_not_brought_back_by_whoever_still_knows_it(store: TallyStore) -> None:
    assert await store.remove_counter("e1", RECORD) == Applied()
    assert await store.set_counter("e1", RECORD) == Conflict(f"counter {COUNTER}", "")
    assert await store.counters() == {}


async def test_counter_that_somebody_else_altered_is_neither_replaced_nor_removed(store: TallyStore) -> None:
    await store.begin_counter("e1", Beginning(ALTERED, RECORD.id))
    other = replace(RECORD, id=9)
    assert await store.begin_counter("e1", Beginning(other, RECORD.id)) == Conflict(
        f"counter {COUNTER}", str(ALTERED.id)
    )
    assert await store.begin_counter("e1", Beginning(other, None)) == Conflict(f"counter {COUNTER}", str(ALTERED.id))
    assert await store.remove_counter("e1", RECORD) == Conflict(f"counter {COUNTER}", str(ALTERED.id))
    assert await store.counters() == {COUNTER: ALTERED}


async def test_call_whose_reply_was_lost_may_be_repeated(client: Redis, store: TallyStore) -> None:
    for _ in range(2):
        assert await store.begin_counter("e1", Beginning(ALTERED, RECORD.id)) == Applied()
    await store.remove_counter("e1", ALTERED)
    before = await everything(client)
    assert await store.remove_counter("e1", ALTERED) == Applied()
    assert await everything(client) == before


async def test_tallies_of_a_removed_counter_stay_until_cleared_and_are_cleared_whole(
    client: Redis, store: TallyStore
) -> None:
    scopes = [str(number) for number in range(2300)]
    hidden = [group({"7": 1}, scope, hidden=True) for scope in scopes[:1200]]
    await store.apply("e1", moves(0, 1), [group({"7": 1}, scope) for scope in scopes] + hidden)
    await store.remove_counter("e1", RECORD)
    assert sum(b":tally:" in key for key in await everything(client)) == len(scopes)
    assert await store.clear_removed("e1", COUNTER, str(RECORD.id))
    assert not [key for key in await everything(client) if b":tally:" in key or b":seeding:" in key]


async def test_counter_that_is_back_is_not_cleared(client: Redis, store: TallyStore) -> None:
    """By a process that was asleep since it saw that the counter was gone."""
    await store.apply("e1", moves(0, 1), [group({"7": 1})])
    await store.remove_counter("e1", RECORD)
    await store.begin_counter("e1", Beginning(ALTERED, None))
    assert await store.removed() == {}
    assert not await store.clear_removed("e1", COUNTER, str(RECORD.id))
    assert [key for key in await everything(client) if b":tally:" in key]


async def test_counters_of_another_epoch_are_left_alone(store: TallyStore) -> None:
    assert await store.begin_counter("e2", Beginning(ALTERED, RECORD.id)) == OtherEpoch("e1")
    assert await store.remove_counter("e2", RECORD) == OtherEpoch("e1")
    await store.remove_counter("e1", RECORD)
    assert not await store.clear_removed("e2", COUNTER, str(RECORD.id))
    assert await store.removed() == {COUNTER: str(RECORD.id)}


async def test_counters_that_a_new_epoch_lacks_are_cleared_in_it(client: Redis, store: TallyStore) -> None:
    other = replace(RECORD, id=5, name="other")
    await store.begin_counter("e1", Beginning(other, None))
    await store.begin_counter("e1", Beginning(replace(RECORD, id=6, name="removed_before"), None))
    await store.remove_counter("e1", replace(RECORD, id=6, name="removed_before"))
    await begin(store, replacing="e1", identity="e2")
    assert await store.removed() == {"other": "0", "removed_before": "0"}
    assert await store.clear_removed("e2", "other", "0")
    assert await store.removed() == {"removed_before": "0"}
