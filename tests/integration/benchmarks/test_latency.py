"""Every commit of the writers is seen by every peer that waits for it, and counted once."""

from collections.abc import Callable

import psycopg
import pytest

from benchmarks.latency.observers.floor import Floor
from benchmarks.latency.observers.obeying import Observer
from benchmarks.latency.observers.recounting import Notified, Polling
from benchmarks.latency.scene import NOTIFIED, POLLED, RECEIVED, make_table
from benchmarks.latency.sightings import Sighting, delays
from benchmarks.latency.task import Task
from benchmarks.latency.writing import Writers
from tests.rig.eventually import eventually_sync

pytestmark = pytest.mark.programme

BASE = 2

Open = Callable[[str], Observer]

OBSERVERS: dict[str, Open] = {
    RECEIVED: lambda dsn: Floor(dsn, RECEIVED, BASE),
    POLLED: lambda dsn: Polling(psycopg.connect(dsn, autocommit=True), POLLED),
    NOTIFIED: lambda dsn: Notified(psycopg.connect(dsn, autocommit=True), NOTIFIED),
}


@pytest.mark.parametrize("table", OBSERVERS)
def test_every_commit_is_seen(database18: str, table: str) -> None:
    with psycopg.connect(database18, autocommit=True) as connection:
        make_table(connection, table, BASE)
    observer = OBSERVERS[table](database18)
    observer.begin()
    task = Task(database18, table, rooms=10, base=BASE, rate=2000, seconds=0.05, file="")
    commits = Writers(task).run(task)
    expected = [(room, BASE + number) for room in range(10) for number in range(1, 11)]
    assert sorted((each.room, each.number) for each in commits) == expected
    seen: list[Sighting] = []

    def all_seen() -> bool:
        # A turn after the other, as in the benchmark: what one has seen must not come again in the next.
        observer.step()
        seen.extend(observer.end())
        observer.begin()
        return len(delays(commits, seen)) == len(commits)

    eventually_sync(all_seen, "every commit is seen")
    observer.step()
    seen.extend(observer.end())
    assert max(each.number for each in seen) == BASE + 10
