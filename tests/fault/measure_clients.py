"""How long until every client is right again once Redis is: `python -m tests.fault.measure_clients [--json FILE]`.

After each fault a row is committed. The time runs from the moment its number stands in Redis to the moment the last
client shows it, both looked at every 20 ms.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import redis

from tests.fault import stage as faults
from tests.fault.deployment import Traffic
from tests.fault.stage import ROOMS, Fault, Stage, stage
from tests.rig.eventually import eventually_sync
from tests.rig.watchers import Watchers

_FAULTS: tuple[Fault, ...] = (
    faults.kill_gateways,
    faults.kill_consumer,
    faults.kill_redis,
    faults.bring_redis_back_older,
    faults.flush_redis,
    faults.crash_postgres,
    faults.trim_the_feed,
    faults.freeze_gateway,
    faults.freeze_consumer,
    faults.hold_the_link,
    faults.cut_the_link,
)
_PAGES = ("visits_by_page", "-")


def right_after(fault: Fault, on: Stage, watchers: Watchers, page: str) -> list[float]:
    """Let it happen under traffic; return every client's seconds."""
    with Traffic(on.deployment.dsn) as traffic, redis.Redis.from_url(on.redis.url, protocol=2) as client:
        traffic.wait_for_more()
        fault(on, traffic)
        on.deployment.sql("INSERT INTO visits VALUES (%s, 'eu')", page)
        key = f"cdc:tally:{_PAGES[0]}:{_PAGES[1]}"
        eventually_sync(lambda: client.hget(key, page), f"{page} is in Redis", deadline=120)
        since = time.monotonic()
        seen: dict[int, float] = {}

        def all_saw() -> bool:
            for watcher in watchers.clients:
                view = watcher.views.get(_PAGES)
                if view is not None and page in view.values:
                    seen.setdefault(watcher.number, time.monotonic() - since)
            return len(seen) == watchers.count

        eventually_sync(all_saw, "every client shows it", deadline=120)
    return list(seen.values())


def main() -> None:
    """Print one line per kind of fault: median and longest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="how often each fault happens")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        on = stack.enter_context(stage(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        watchers = stack.enter_context(Watchers(on.urls, ROOMS, options.clients))
        watchers.wait_connected()
        for fault in _FAULTS:
            seconds = []
            for turn in range(options.times):
                seconds += right_after(fault, on, watchers, f"{fault.__name__} {turn}")
            middle, longest = statistics.median(seconds), max(seconds)
            figures[fault.__name__] = {"median_seconds": round(middle, 3), "longest_seconds": round(longest, 3)}
            click.echo(f"{fault.__name__:24} median {middle:6.3f} s   longest {longest:6.3f} s")
        on.deployment.assert_exact(deadline=120)
        watchers.wait_equal(on.truth(), deadline=120)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
