"""One turn of each of those who are compared: commits are written, and what was seen of them is made into delays."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.latency.scene import MESSAGES, Scene, Watch
from benchmarks.latency.sightings import Commit, Sighting, delays

WARM_UP_SECONDS: Final = 0.4
_LINGER_SECONDS: Final = 0.4
"""For what was committed last: longer than the slowest poll."""

REDIS: Final = "Redis"
HTTP: Final = "HTTP"
CLIENT: Final = "client"
OBSERVER: Final = "observer"


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of it: commits per second that really returned, delays by who waited, CPU by who served them."""

    rate: float
    delays: Mapping[str, Sequence[float]]
    shares: Mapping[str, float] = field(default_factory=dict)


def ours(scene: Scene, rate: float, seconds: float, *, in_one_room: bool) -> Turn:
    """Watch Redis, HTTP and the clients, who are connected for this turn only."""
    with scene.crowd(in_one_room=in_one_room) as crowd:
        for watch in (scene.feed, scene.http):
            watch.begin()
        crowd.begin(whole=True)
        before, began = scene.cpu_seconds(), time.monotonic()
        commits = _written(scene, MESSAGES, rate, seconds)
        used = {who: after - before[who] for who, after in scene.cpu_seconds().items()}
        shares = {who: each / (time.monotonic() - began - _LINGER_SECONDS) for who, each in used.items()}
        crowd.end()
        events = crowd.whole()
    in_redis, over_http = scene.feed.end(), scene.http.end()
    probed = {(each.room, each.number) for each in over_http}
    asked = [each for each in commits if (each.room, each.number) in probed]
    clients = _by_client(events)
    waited = [delay for client, seen in clients.items() for delay in delays(_seen_by(commits, seen), seen)]
    found = {REDIS: delays(commits, in_redis), HTTP: delays(asked, over_http), CLIENT: waited}
    return Turn(_reached(commits), found, shares)


def peer(scene: Scene, watch: Watch, table: str, rate: float, seconds: float) -> Turn:
    """Watch one peer."""
    watch.begin()
    commits = _written(scene, table, rate, seconds)
    return Turn(_reached(commits), {OBSERVER: delays(commits, watch.end())})


def _written(scene: Scene, table: str, rate: float, seconds: float) -> list[Commit]:
    """Write, and leave out what was due while everything got warm."""
    commits = scene.write(table, rate, WARM_UP_SECONDS + seconds)
    time.sleep(_LINGER_SECONDS)
    began = min(each.due for each in commits)
    return [each for each in commits if each.due >= began + WARM_UP_SECONDS * 1e9]


def _reached(commits: Sequence[Commit]) -> float:
    first, last = min(each.due for each in commits), max(each.returned for each in commits)
    return len(commits) / ((last - first) / 1e9)


def _by_client(events: Sequence[tuple[int, int, list[Any]]]) -> dict[int, list[Sighting]]:
    """Return what each client saw: the only bucket of its own room, or the rooms that are buckets of the one room."""
    found: dict[int, list[Sighting]] = {}
    for client, at, (_, body) in events:
        found.setdefault(client, []).extend(_sightings(body, at))
    return found


def _sightings(body: Mapping[str, Any], at: int) -> Iterator[Sighting]:
    for bucket, value in (body.get("changes") or body.get("values") or {}).items():
        yield Sighting(int(body["scope"] if bucket == "-" else bucket), value, at)


def _seen_by(commits: Sequence[Commit], seen: Sequence[Sighting]) -> list[Commit]:
    """Return the commits that this client is shown at all."""
    rooms = {each.room for each in seen}
    return [each for each in commits if each.room in rooms]
