"""Counters are added, altered and removed while everything runs: what readers and subscribers see of it."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from cdc_counter import wiring
from cdc_counter.config import load_config
from cdc_counter.wiring import changes
from tests.fault.deployment import COUNTERS, HONEST, Deployment, Traffic, command, fetch, wait_said
from tests.integration.gateway.client import Client, replay
from tests.rig.daemon import PROGRAM, Daemon
from tests.rig.eventually import eventually, eventually_sync
from tests.rig.tallies import all_tallies, wait_applied, watermark

ADDED = """
[[counter]]
name = "by_status"
table = "conversations"
scope = "account_id"
by = "status"
"""

OPEN = 'where = "status = \'open\'"\nscope = "account_id"\nby = "channel_id"'
ALTERED = COUNTERS.replace(OPEN, 'where = "status <> \'open\'"\nscope = "account_id"\nby = "channel_id + 1000"')
SCALED = COUNTERS.replace('measure = "sum(amount)"', 'measure = "sum(amount::numeric(20,4))"')
WITHOUT_ORDERS = (
    COUNTERS[: COUNTERS.index('[[counter]]\nname = "amount_by_shop"')]
    + (COUNTERS[COUNTERS.index('[[counter]]\nname = "visits_by_page"') :])
)


def counted(deployment: Deployment, counter: str, query: str) -> None:
    """Wait until everything is applied, then compare one counter with a query of ours."""
    wait_applied(deployment.dsn, deployment.redis_url)
    compare(deployment, counter, query)


def compare(deployment: Deployment, counter: str, query: str) -> None:
    found = {key[1:]: value for key, value in all_tallies(deployment.redis_url).items() if key[0] == counter}
    with psycopg.connect(deployment.dsn) as connection:
        truth = {(str(s), str(b)): int(v) for s, b, v in connection.execute(query.encode()).fetchall() if v}
    assert truth
    assert found == truth


def counter_keys(deployment: Deployment, *counters: str) -> list[str]:
    """Return the keys in Redis that hold something of these counters."""
    with redis.Redis.from_url(deployment.redis_url, protocol=2) as client:
        keys = [key.decode() for key in client.scan_iter(count=1000)]
        fields = [field.decode() for key in ("cdc:meta", "cdc:verified") for field in client.hkeys(key)]
    return [text for text in keys + fields if any(name in text.split(":") for name in counters)]


def apply(deployment: Deployment, config: Path) -> subprocess.CompletedProcess[str]:
    done = command("apply", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def applying(config: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run `apply` beside the block, which has to make it end."""
    process = subprocess.Popen(
        [PROGRAM, "apply", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    finally:
        process.kill()


def two_processes(deployment: Deployment) -> tuple[Daemon, Daemon]:
    """Start consumer and gateway apart, so that one can stand still while the other answers.

    Nothing is verified meanwhile: a consumer that is frozen in a recount holds the truth view that is to be replaced.
    """
    deployment.config = deployment.write_config("c", extra="[verify]\nshare = 0")
    deployment.init()
    consumer = deployment.daemon("consumer", None, "--role", "consumer").start()
    gateway = deployment.daemon("gateway", None, "--role", "gateway").start().wait_ready()
    return consumer, gateway


@asynccontextmanager
async def connected(gateway: Daemon) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(f"http://127.0.0.1:{gateway.port}")
    try:
        yield client
    finally:
        await client.close()


async def in_state(deployment: Deployment, counter: str, state: str) -> None:
    await asyncio.to_thread(
        eventually_sync, lambda: deployment.record(counter).get("state") == state, f"{counter} is {state}"
    )


async def shown(snapshot: dict[str, Any], client: Client, values: dict[str, int]) -> None:
    """Wait until a client that replays what it was sent shows these values, live."""

    async def now() -> tuple[dict[str, int], str]:
        resets = [body["state"] for event, body in client.events if event == "reset"]
        return replay(snapshot, client.events), (resets or [snapshot["state"]])[-1]

    await eventually(now, "the client shows the table's numbers", until=lambda seen: seen == (values, "live"))


def of_account(deployment: Deployment, query: str) -> dict[str, int]:
    return {str(bucket): int(value) for bucket, value in deployment.sql(query)}


async def test_added_counter_shows_nothing_until_it_is_live_and_then_everything(deployment18: Deployment) -> None:
    deployment = deployment18
    consumer, gateway = await asyncio.to_thread(two_processes, deployment)
    config = deployment.write_config("new", counters=COUNTERS + ADDED)
    with Traffic(deployment.dsn) as traffic:
        async with connected(gateway) as client:
            assert await client.subscribe("by_status", 1) == {"error": "not found"}
            consumer.freeze()
            with applying(config):
                await in_state(deployment, "by_status", "seeding")
                await asyncio.to_thread(traffic.wait_for_more)
                snapshot = await client.subscribe("by_status", 1)
                assert (snapshot["values"], snapshot["state"]) == ({}, "seeding")
                before = watermark(deployment.redis_url)
                consumer.thaw()
            assert watermark(deployment.redis_url) > before
            await asyncio.to_thread(traffic.wait_for_more, 50)
            first = next(body for event, body in client.events if event == "tally" or body["values"])
            assert first["state"] == "live", "numbers came before the counter was live"
            traffic.__exit__()
            await shown(
                snapshot,
                client,
                of_account(deployment, "SELECT status, count(*) FROM conversations WHERE account_id = 1 GROUP BY 1"),
            )
    counted(deployment, "by_status", "SELECT account_id, status, count(*) FROM conversations GROUP BY 1, 2")
    deployment.assert_exact(without=frozenset({"by_status"}))
    assert consumer.log_text().count("streaming slot") == 1
    assert deployment.record("open_by_channel")["id"] < deployment.record("by_status")["id"]


async def test_altered_counter_keeps_its_old_numbers_until_the_new_ones_take_their_place(
    deployment18: Deployment,
) -> None:
    deployment = deployment18
    consumer, gateway = await asyncio.to_thread(two_processes, deployment)
    config = deployment.write_config("new", counters=ALTERED)
    with Traffic(deployment.dsn) as traffic:
        async with connected(gateway) as client, connected(gateway) as other:
            snapshot = await client.subscribe("open_by_channel", 1)
            unchanged = await other.subscribe("conversations")
            await asyncio.to_thread(traffic.wait_for_more)
            consumer.freeze()
            with applying(config):
                await in_state(deployment, "open_by_channel", "rebuilding")
                await asyncio.to_thread(traffic.wait_for_more)
                consumer.thaw()
            await asyncio.to_thread(traffic.wait_for_more, 50)
            resets = [body for event, body in client.events if event == "reset"]
            assert [body["state"] for body in resets] == ["rebuilding", "live"]
            assert all(int(bucket) < 1000 for bucket in resets[0]["values"])
            assert all(int(bucket) >= 1000 for bucket in resets[1]["values"])
            assert resets[0]["values"]
            assert not any(event == "reset" for event, _ in other.events), "a counter that is not altered was touched"
            traffic.__exit__()
            await shown(
                snapshot,
                client,
                of_account(
                    deployment,
                    "SELECT channel_id + 1000, count(*) FROM conversations WHERE status <> 'open' AND account_id = 1"
                    " GROUP BY 1",
                ),
            )
            await shown(unchanged, other, of_account(deployment, "SELECT '-', count(*) FROM conversations"))
    counted(
        deployment,
        "open_by_channel",
        "SELECT account_id, channel_id + 1000, count(*) FROM conversations WHERE status <> 'open' GROUP BY 1, 2",
    )
    deployment.assert_exact(without=frozenset({"open_by_channel"}))


async def test_old_sums_are_shown_with_the_scale_they_were_counted_with(deployment18: Deployment) -> None:
    deployment = deployment18
    consumer, gateway = await asyncio.to_thread(two_processes, deployment)
    before = fetch(gateway, "/v1/counters/amount_by_shop")[1]
    consumer.freeze()
    with applying(deployment.write_config("new", counters=SCALED)):
        await in_state(deployment, "amount_by_shop", "rebuilding")
        during = fetch(gateway, "/v1/counters/amount_by_shop")[1]
        assert (during["state"], during["scale"], during["values"]) == ("rebuilding", 2, before["values"])
        consumer.thaw()
    after = fetch(gateway, "/v1/counters/amount_by_shop")[1]
    assert (after["state"], after["scale"]) == ("live", 4)
    assert after["values"] == {shop: 100 * value for shop, value in before["values"].items()}


@pytest.mark.programme
async def test_removed_counters_leave_nothing_behind_however_much_is_written(deployment18: Deployment) -> None:
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    fewer = deployment.write_config("fewer", counters=WITHOUT_ORDERS)
    gone = ("amount_by_shop", "orders_by_ratio", "orders_by_shop")
    with Traffic(deployment.dsn, count=3) as traffic:
        for _ in range(4):
            async with connected(daemon) as client:
                snapshot = await client.subscribe("orders_by_shop")
                assert snapshot["state"] == "live"
                done = await asyncio.to_thread(apply, deployment, fewer)
                assert f"removed: {', '.join(gone)}" in done.stdout
                assert counter_keys(deployment, *gone) == []
                last = (await client.received(1))[-1]
                assert (last[0], last[1]["state"], last[1]["removed"]) == ("reset", "stale", True)
                assert await client.subscribe("orders_by_shop") == {"error": "not found"}
                assert fetch(daemon, "/v1/counters/orders_by_shop")[0] == 404
                await asyncio.to_thread(traffic.wait_for_more)
                assert counter_keys(deployment, *gone) == []
            await asyncio.to_thread(apply, deployment, deployment.config)
    await asyncio.to_thread(deployment.assert_exact)
    assert daemon.log_text().count("streaming slot") == 1


async def test_deltas_that_come_after_a_removal_bring_nothing_back(deployment18: Deployment) -> None:
    """They were written before it, and wait in the stream of a consumer that does not know of it yet."""
    deployment = deployment18
    consumer, _ = await asyncio.to_thread(two_processes, deployment)
    consumer.freeze()
    deployment.sql("INSERT INTO orders (shop, amount) SELECT 'late ' || i, i FROM generate_series(1, 500) AS i")
    with applying(deployment.write_config("fewer", counters=WITHOUT_ORDERS)):
        await asyncio.to_thread(
            eventually_sync, lambda: deployment.record("orders_by_shop") == {}, "the counter is not known any more"
        )
        consumer.thaw()
    await asyncio.to_thread(wait_applied, deployment.dsn, deployment.redis_url)
    assert counter_keys(deployment, "amount_by_shop", "orders_by_ratio", "orders_by_shop") == []


@pytest.mark.programme
def test_steps_run_by_hand_are_taken_up_by_the_daemon(deployment18: Deployment) -> None:
    """As after an `apply` that was killed between the database and Redis: nothing but the database was changed."""
    deployment = deployment18
    deployment.init()
    daemon = deployment.daemon().start().wait_ready()
    config = deployment.write_config(
        "new", counters=WITHOUT_ORDERS.replace(OPEN, OPEN.replace("'open'", "'closed'")) + ADDED
    )
    planned = command("plan", "--sql", config=config)
    before = deployment.record("open_by_channel")
    assert planned.returncode == 1, planned.stderr
    with Traffic(deployment.dsn) as traffic, psycopg.connect(deployment.dsn, autocommit=True) as connection:
        for statement in planned.stdout.split("BEGIN;")[1:]:
            connection.execute(f"BEGIN;{statement.partition('COMMIT;')[0]}COMMIT;".encode())
        eventually_sync(
            lambda: deployment.record("open_by_channel") | {"since": 0} != before | {"since": 0},
            "the altered counter is not shown as live with its old id, long before anybody looks",
            deadline=5,
        )
        traffic.wait_for_more()
        wait_said(daemon, "counter orders_by_shop was removed")
        eventually_sync(lambda: deployment.states().get("by_status") == "live", "the added counter is live")
    counted(deployment, "by_status", "SELECT account_id, status, count(*) FROM conversations GROUP BY 1, 2")
    counted(
        deployment,
        "open_by_channel",
        "SELECT account_id, channel_id, count(*) FROM conversations WHERE status = 'closed' GROUP BY 1, 2",
    )
    assert command("plan", config=config).returncode == 0
    assert counter_keys(deployment, "orders_by_shop") == []


@pytest.mark.programme
def test_counters_are_changed_while_no_daemon_runs(deployment18: Deployment) -> None:
    deployment = deployment18
    config = deployment.write_config("new", counters=WITHOUT_ORDERS + ADDED)
    refused = command("apply", config=config)
    assert refused.returncode == 3
    assert "run 'cdc-counter init'" in refused.stderr
    deployment.init()
    assert command("plan", config=deployment.config).returncode == 0
    apply(deployment, config)
    compare(deployment, "by_status", "SELECT account_id, status, count(*) FROM conversations GROUP BY 1, 2")
    assert counter_keys(deployment, "orders_by_shop", "amount_by_shop") == []
    assert "nothing to do" in apply(deployment, config).stdout


@pytest.mark.programme
def test_counter_altered_while_it_is_seeded_is_seeded_again(deployment18: Deployment) -> None:
    """The seed that is under way counts by the old definition: it must not make the new one live."""
    deployment = deployment18
    deployment.init()
    deployment.sql(
        "INSERT INTO conversations (account_id, channel_id, status)"
        " SELECT i % 5000, i % 7, 'x' FROM generate_series(1, 150000) AS i"
    )
    consumer = deployment.daemon("consumer", None, "--role", "consumer").start()
    first = deployment.write_config("first", counters=COUNTERS + ADDED)
    second = deployment.write_config("second", counters=COUNTERS + ADDED.replace('"status"', '"upper(status)"'))
    with Traffic(deployment.dsn) as traffic:
        wait_said(consumer, "streaming slot")
        with applying(first):
            eventually_sync(
                lambda: any(":seeding:by_status:" in f":{key}:" for key in counter_keys(deployment, "by_status")),
                "the first seed is under way",
            )
            apply(deployment, second)
        traffic.wait_for_more()
    counted(deployment, "by_status", "SELECT account_id, upper(status), count(*) FROM conversations GROUP BY 1, 2")


async def test_init_ends_when_its_counters_are_live_and_not_when_it_looks_again(
    deployment18: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_LOOK_SECONDS", 3600)
    async with asyncio.timeout(60):
        report = await wiring.init(load_config(deployment18.config, {}), lambda _: None)
    assert set(report.seeded) == HONEST.keys()
    assert set(deployment18.states().values()) == {"live"}
    # For the comparison only: what the server itself writes into the WAL is passed by whoever streams.
    deployment18.daemon().start()
    deployment18.assert_exact()
