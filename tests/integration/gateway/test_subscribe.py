"""Subscribing, changes, resets: what a client sees is what the source holds, never older than what it saw."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cdc_counter.core.reading import Change, CounterInfo, CounterState
from tests.integration.gateway.client import replay
from tests.integration.gateway.conftest import Connect, Start
from tests.integration.gateway.script import Script
from tests.rig.eventually import eventually


async def test_acknowledgement_is_exactly_the_snapshot(script: Script, start: Start, connect: Connect) -> None:
    script.change("open_by_channel", "42", {"7": 3})
    client = await connect((await start()).url)
    assert await client.subscribe("open_by_channel", "42") == {
        "counter": "open_by_channel",
        "scope": "42",
        "values": {"7": 3},
        "version": "0000000000001010",
        "state": "live",
        "epoch": "e1",
        "scale": 0,
        "verified_at": None,
    }


async def test_change_arrives_with_absolute_value_and_version(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start()).url)
    await client.subscribe("open_by_channel", "42")
    position = script.change("open_by_channel", "42", {"7": 5})
    assert await client.received(1) == [
        (
            "tally",
            {"counter": "open_by_channel", "scope": "42", "changes": {"7": 5}, "version": position.version},
        )
    ]


async def test_absent_scope_is_the_single_scope_and_integers_are_texts(
    script: Script, start: Start, connect: Connect
) -> None:
    script.change("total", "-", {"-": 9})
    script.change("open_by_channel", "42", {"7": 3})
    client = await connect((await start()).url)
    unscoped = await client.subscribe("total")
    assert (unscoped["scope"], unscoped["values"], unscoped["scale"]) == ("-", {"-": 9}, 2)
    assert (await client.subscribe("open_by_channel", 42))["values"] == {"7": 3}
    assert await client.subscribe("open_by_channel") == {"error": "not found"}


async def test_client_is_sent_only_the_rooms_it_is_in(script: Script, start: Start, connect: Connect) -> None:
    url = (await start()).url
    first, second = await connect(url), await connect(url)
    await first.subscribe("open_by_channel", "1")
    await second.subscribe("open_by_channel", "2")
    script.change("open_by_channel", "2", {"7": 1})
    script.change("open_by_channel", "1", {"7": 2})
    assert [body["scope"] for _, body in await first.received(1)] == ["1"]
    assert [body["scope"] for _, body in await second.received(1)] == ["2"]


async def test_changes_during_the_first_reading_are_not_lost(script: Script, start: Start, connect: Connect) -> None:
    script.change("open_by_channel", "42", {"7": 3, "8": 1})
    client = await connect((await start()).url)
    script.may_read.clear()
    asking = asyncio.ensure_future(client.subscribe("open_by_channel", "42"))
    await eventually(_reads(script, 1), "the reading to be under way")
    script.change("open_by_channel", "42", {"7": 4, "8": 0})
    last = script.change("open_by_channel", "42", {"9": 6})
    script.may_read.set()
    snapshot = await asking
    assert replay(snapshot, client.events) == {"7": 4, "9": 6}
    assert snapshot["version"] == last.version


async def test_entries_up_to_the_reading_are_not_sent_again(script: Script, start: Start, connect: Connect) -> None:
    script.change("open_by_channel", "42", {"7": 3})
    old = Change(script.sequence, "open_by_channel", "42", {"7": 99}, script.version)
    client = await connect((await start()).url)
    await client.subscribe("open_by_channel", "42")
    script.publish(old)
    script.change("open_by_channel", "42", {"8": 1})
    assert [body["changes"] for _, body in await client.received(1)] == [{"8": 1}]


async def test_concurrent_first_subscribers_share_one_reading(script: Script, start: Start, connect: Connect) -> None:
    url = (await start()).url
    clients = [await connect(url) for _ in range(5)]
    script.may_read.clear()
    asking = [asyncio.ensure_future(client.subscribe("open_by_channel", "42")) for client in clients]
    await eventually(_reads(script, 1), "the reading to be under way")
    script.may_read.set()
    await asyncio.gather(*asking)
    assert script.reads == 1


async def test_open_room_is_answered_while_redis_is_away(script: Script, start: Start, connect: Connect) -> None:
    url = (await start(answer_seconds=1)).url
    await (await connect(url)).subscribe("open_by_channel", "42")
    script.change("open_by_channel", "42", {"7": 3})
    late = await connect(url)
    script.down = True
    assert await late.subscribe("open_by_channel", "41") == {"error": "unavailable"}
    assert (await late.subscribe("open_by_channel", "42"))["values"] == {"7": 3}


async def test_burst_is_conflated_to_the_last_values(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start(tick_ms=200)).url)
    snapshot = await client.subscribe("open_by_channel", "42")
    for number in range(1, 2001):
        script.change("open_by_channel", "42", {"7": number, "8": number % 2})
    last = script.change("open_by_channel", "42", {"9": 1})

    async def complete() -> bool:
        return bool(client.events) and client.events[-1][1]["version"] == last.version

    await eventually(complete, "the last change")
    assert replay(snapshot, client.events) == {"7": 2000, "9": 1}
    assert len(client.events) <= 3


async def test_thousands_of_buckets_in_one_scope_arrive_whole(script: Script, start: Start, connect: Connect) -> None:
    script.change("open_by_channel", "42", {f"tag {number}": number for number in range(1, 5001)})
    client = await connect((await start()).url)
    snapshot = await client.subscribe("open_by_channel", "42")
    assert len(snapshot["values"]) == 5000
    script.change("open_by_channel", "42", {f"tag {number}": 0 for number in range(1, 5001)})
    assert replay(snapshot, await client.received(1)) == {}


async def test_values_beyond_64_bits_arrive_as_they_are(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start()).url)
    script.change("total", "-", {"-": -(2**63)})
    assert (await client.subscribe("total"))["values"] == {"-": -(2**63)}
    script.change("total", "-", {"-": 2**70})
    assert (await client.received(1))[0][1]["changes"] == {"-": 2**70}


async def test_unsubscribed_room_sends_nothing_more(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start()).url)
    await client.subscribe("open_by_channel", "42")
    await client.subscribe("total")
    await client.ask("unsubscribe", {"counter": "open_by_channel", "scope": 42})
    script.change("open_by_channel", "42", {"7": 1})
    script.change("total", "-", {"-": 1})
    assert [body["counter"] for _, body in await client.received(1)] == ["total"]


async def test_reset_brings_a_new_snapshot_of_this_counter_only(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start()).url)
    await client.subscribe("open_by_channel", "42")
    await client.subscribe("total")
    script.tallies["open_by_channel", "42"] = {"7": 12}
    script.counters["open_by_channel"] = CounterInfo("open_by_channel", scoped=True, state=CounterState.REBUILDING)
    script.reset("open_by_channel")
    script.change("total", "-", {"-": 1})
    events = dict(await client.received(2))
    assert (events["reset"]["values"], events["reset"]["state"]) == ({"7": 12}, "rebuilding")
    assert set(events["reset"]) == {"counter", "scope", "values", "version", "state", "epoch", "scale", "verified_at"}


async def test_gap_is_repaired_by_reading_again(script: Script, start: Start, connect: Connect) -> None:
    script.change("open_by_channel", "42", {"7": 3})
    client = await connect((await start()).url)
    snapshot = await client.subscribe("open_by_channel", "42")
    script.tallies["open_by_channel", "42"] = {"8": 4}
    script.pass_by()
    script.gap()
    assert replay(snapshot, await client.received(1)) == {"8": 4}


async def test_what_the_feed_said_while_it_was_lost_is_read(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start()).url)
    snapshot = await client.subscribe("open_by_channel", "42")
    script.lose_feed()
    script.change("open_by_channel", "42", {"7": 3})
    assert replay(snapshot, await client.received(1)) == {"7": 3}
    script.change("open_by_channel", "42", {"7": 4})
    assert replay(snapshot, await client.received(2)) == {"7": 4}


async def test_new_epoch_may_go_back_and_its_changes_count(script: Script, start: Start, connect: Connect) -> None:
    script.version = type(script.version)(0x900000)
    client = await connect((await start()).url)
    snapshot = await client.subscribe("open_by_channel", "42")
    script.version, script.epoch, script.sequence = type(script.version)(0x20), "e2", 0
    script.tallies.clear()
    script.reset()
    await client.received(1)
    script.change("open_by_channel", "42", {"7": 1})
    events = await client.received(2)
    assert (events[0][1]["epoch"], events[0][1]["version"]) == ("e2", "0000000000000020")
    assert replay(snapshot, events) == {"7": 1}


async def test_redis_that_went_back_is_not_shown_until_it_is_there_again(
    script: Script, start: Start, connect: Connect
) -> None:
    served = await start(answer_seconds=1)
    client = await connect(served.url)
    await client.subscribe("open_by_channel", "42")
    position = script.change("open_by_channel", "42", {"7": 5})
    await client.received(1)
    script.version, script.tallies["open_by_channel", "42"] = type(position)(position - 16), {"7": 4}
    script.gap()
    late = await connect(served.url)
    assert await late.subscribe("open_by_channel", "42") == {"error": "unavailable"}
    script.change("open_by_channel", "42", {"7": 5})
    script.pass_by()
    assert replay({"values": {}, "version": "", "epoch": "e1"}, await client.received(2)) == {"7": 5}


async def test_readings_that_overtake_each_other_are_all_good(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start()).url)
    await client.subscribe("open_by_channel", "40")
    script.may_read.clear()
    slow = asyncio.ensure_future(client.subscribe("open_by_channel", "41"))
    await eventually(_reads(script, 2), "the slow reading to be under way")
    script.may_read, held_back = asyncio.Event(), script.may_read
    script.may_read.set()
    script.pass_by()
    assert (await client.subscribe("total"))["version"] == script.version.version
    held_back.set()
    assert (await slow)["version"] < script.version.version


async def test_reading_begun_before_redis_was_lost_is_taken_again(
    script: Script, start: Start, connect: Connect
) -> None:
    script.change("open_by_channel", "42", {"7": 3})
    client = await connect((await start()).url)
    script.may_read.clear()
    asking = asyncio.ensure_future(client.subscribe("open_by_channel", "42"))
    await eventually(_reads(script, 1), "the reading to be under way")
    script.epoch, script.tallies["open_by_channel", "42"] = "e2", {"8": 1}
    script.gap()
    script.publish(Change(99, "open_by_channel", "41", {"x": 1}, script.version))
    await client.subscribe("nothing")
    script.may_read.set()
    snapshot = await asking
    assert (snapshot["epoch"], snapshot["values"]) == ("e2", {"8": 1})


async def test_older_reading_of_the_same_epoch_is_refused(script: Script, start: Start, connect: Connect) -> None:
    client = await connect((await start(answer_seconds=1)).url)
    await client.subscribe("open_by_channel", "42")
    script.version = type(script.version)(script.version - 1)
    assert await client.subscribe("total") == {"error": "unavailable"}


async def test_epoch_that_was_over_is_not_shown_again(script: Script, start: Start, connect: Connect) -> None:
    """Redis comes back from a dump that is older than its epoch, until the consumer begins the next one."""
    client = await connect((await start(answer_seconds=1)).url)
    await client.subscribe("open_by_channel", "42")
    script.epoch, script.tallies["open_by_channel", "42"] = "e2", {"7": 5}
    script.reset()
    await client.received(1)
    script.epoch, script.tallies["open_by_channel", "42"] = "e1", {"7": 4}
    script.gap()
    assert await client.subscribe("total") == {"error": "unavailable"}
    script.epoch, script.tallies["open_by_channel", "42"] = "e3", {"7": 6}
    assert [body["epoch"] for _, body in await client.received(2)] == ["e2", "e3"]


async def test_subscriber_is_answered_as_soon_as_redis_is_back(
    script: Script, start: Start, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def failed() -> bool:
        return "reading rooms fails" in caplog.text

    client = await connect((await start(answer_seconds=60)).url)
    await client.subscribe("total")
    script.down = True
    asking = asyncio.ensure_future(client.subscribe("open_by_channel", "42"))
    await eventually(failed, "a reading to have failed")
    script.down = False
    assert "error" not in await asking


async def test_removed_counter_ends_stale_and_unknown(script: Script, start: Start, connect: Connect) -> None:
    script.change("open_by_channel", "42", {"7": 3})
    client = await connect((await start()).url)
    await client.subscribe("open_by_channel", "42")
    del script.counters["open_by_channel"]
    script.reset("open_by_channel")
    ((event, body),) = await client.received(1)
    assert (event, body["state"], body["values"], body["removed"]) == ("reset", "stale", {"7": 3}, True)
    assert await client.subscribe("open_by_channel", "42") == {"error": "not found"}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None,),
        ("open_by_channel",),
        ([],),
        ({},),
        ({"counter": 7, "scope": "42"},),
        ({"counter": "open_by_channel", "scope": ["42"]},),
        ({"counter": "open_by_channel", "scope": {"a": 1}},),
        ({"counter": "open_by_channel", "scope": True},),
        ({"counter": "open_by_channel", "scope": 1.5},),
        ({"counter": "open_by_channel", "scope": "x" * 5000},),
        ({"counter": "x" * 100, "scope": "42"},),
        ({"counter": "open_by_channel"}, "more"),
    ],
)
@pytest.mark.parametrize("event", ["subscribe", "unsubscribe"])
async def test_arguments_of_the_wrong_shape_are_told_so(
    event: str, arguments: tuple[Any, ...], start: Start, connect: Connect
) -> None:
    client = await connect((await start()).url)
    answer = await client.ask(event, *arguments)
    assert answer["error"] == "invalid"
    assert answer["reason"]


@pytest.mark.parametrize(("counter", "scope"), [("nothing", "42"), ("total", "42")])
async def test_what_does_not_exist_is_not_found(counter: str, scope: str, start: Start, connect: Connect) -> None:
    client = await connect((await start()).url)
    assert await client.subscribe(counter, scope) == {"error": "not found"}


async def test_subscriptions_of_one_client_are_bounded(start: Start, connect: Connect) -> None:
    url = (await start(max_subscriptions=3)).url
    client = await connect(url)
    answers = [await client.subscribe("open_by_channel", number) for number in range(4)]
    assert [answer.get("error") for answer in answers] == [None, None, None, "too many subscriptions"]
    await client.ask("unsubscribe", {"counter": "open_by_channel", "scope": 0})
    assert "error" not in await client.subscribe("open_by_channel", 3)
    assert "error" not in await client.subscribe("open_by_channel", 3)


async def test_unsubscribing_during_the_first_reading_leaves_nothing_behind(
    script: Script, start: Start, connect: Connect
) -> None:
    served = await start()
    client = await connect(served.url)
    script.may_read.clear()
    asking = asyncio.ensure_future(client.subscribe("open_by_channel", "42"))
    await eventually(_reads(script, 1), "the reading to be under way")
    await client.ask("unsubscribe", {"counter": "open_by_channel", "scope": "42"})
    script.may_read.set()
    assert (await asking)["error"] == "invalid"
    assert "cdc_counter_subscriptions 0.0" in served.metrics.exposition().decode()


async def test_polling_client_gets_the_same_events(script: Script, start: Start, connect: Connect) -> None:
    served = await start()
    client = await connect(served.url, transports=("polling",))
    snapshot = await client.subscribe("open_by_channel", "42")
    script.change("open_by_channel", "42", {"7": 1})
    assert replay(snapshot, await client.received(1)) == {"7": 1}
    served.stop.set()
    await client.gone.wait()


async def test_clients_joining_under_full_rate_end_with_the_same_numbers(
    script: Script, start: Start, connect: Connect, stack: AsyncExitStack
) -> None:
    url = (await start(tick_ms=5)).url

    async def write() -> None:
        for number in range(1, 1500):
            script.change("open_by_channel", "42", {str(number % 13): number % 5, "last": number})
            await asyncio.sleep(0)

    async def watch() -> None:
        client = await connect(url)
        snapshot = await client.subscribe("open_by_channel", "42")

        async def complete() -> bool:
            # Cheap, for it shares the event loop with the writer: a replay each time would slow it down.
            last = client.events[-1][1] if client.events else snapshot
            return bool(last["version"] == script.version.version)

        await writing
        await eventually(complete, "the last number", deadline=60)
        assert replay(snapshot, client.events) == script.tallies["open_by_channel", "42"]

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        for _ in range(12):
            group.create_task(watch())


def _reads(script: Script, count: int) -> Any:
    async def enough() -> bool:
        return script.reads >= count

    return enough
