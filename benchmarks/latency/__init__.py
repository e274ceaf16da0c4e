"""From the commit to the screen: how long after a commit returned it is in Redis, over HTTP, and with every client.

The writers are an open loop: they write at their rate, whatever becomes of it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from benchmarks.bench import Bench
from benchmarks.chart import Bars, Chart
from benchmarks.figures import OURS, Condition, Figures
from benchmarks.latency import turns
from benchmarks.latency.scene import NOTIFIED, POLLED, RECEIVED, ROOMS, SENT_ON, Scene
from benchmarks.latency.sightings import percentile
from benchmarks.latency.turns import CLIENT, OBSERVER, REDIS, Turn
from benchmarks.targets import Target

TITLE: Final = "From the commit to the screen"

FLOOR: Final = "a psycopg reader that only receives"
SENDING: Final = "the same, with one Redis command for what came"
POLLING: Final = "polling every 100 ms"
RECOUNT: Final = "LISTEN/NOTIFY and a recount"

MEDIAN: Final = "commit to {}, median"
LATEST: Final = "commit to {}, 99th percentile"
SHARE: Final = "share of a core that {} used"
REACHED: Final = "commits per second reached"

_OWN_ROOMS: Final = f"{ROOMS} clients, one each"
_ONE_ROOM: Final = f"one, {ROOMS} clients"

_AT_1000: Final[Mapping[str, Condition]] = {"rate": 1000, "rooms": _OWN_ROOMS}
_ALL_IN_ONE: Final[Mapping[str, Condition]] = {"rate": 1000, "rooms": _ONE_ROOM}
_FLOOR_AT_1000: Final[Mapping[str, Condition]] = {"rate": 1000}

TARGETS: Final = (
    Target(MEDIAN.format(REDIS), _AT_1000, at_most=0.5),
    Target(LATEST.format(REDIS), _AT_1000, at_most=2),
    Target(
        MEDIAN.format(REDIS),
        _AT_1000,
        to=FLOOR,
        to_measure=MEDIAN.format(OBSERVER),
        to_conditions=_FLOOR_AT_1000,
        at_most=3,
    ),
    *(Target(MEDIAN.format(CLIENT), where, at_most=2) for where in (_AT_1000, _ALL_IN_ONE)),
    *(Target(LATEST.format(CLIENT), where, at_most=8) for where in (_AT_1000, _ALL_IN_ONE)),
)

_OURS: Final = {f"{OURS}, {rooms}": rooms for rooms in (_OWN_ROOMS, _ONE_ROOM)}
"""Our turns."""


def run(bench: Bench) -> None:
    """Measure."""
    seconds = 1.5 if not bench.quick else 0.8
    with Scene(bench.folder, base=bench.sized(1000, 100)) as scene:
        own, one = _OURS
        takers: dict[str, Callable[[float, float], Turn]] = {
            own: partial(turns.ours, scene, in_one_room=False),
            FLOOR: partial(turns.peer, scene, scene.floor, RECEIVED),
            SENDING: partial(turns.peer, scene, scene.sent_on, SENT_ON),
            one: partial(turns.ours, scene, in_one_room=True),
            POLLING: partial(turns.peer, scene, scene.polling, POLLED),
            RECOUNT: partial(turns.peer, scene, scene.notified, NOTIFIED),
        }
        for rate in (1000,) if bench.quick else (100, 1000, 3000):
            if not bench.wants(f"{rate}-per-second"):
                continue
            for taker in bench.turns(f"{rate:,} commits per second", list(takers)):
                _record(bench, taker, rate, takers[taker](rate, seconds))


def charts(figures: Figures) -> Sequence[Chart]:
    """Draw who has seen a commit how soon, at 1,000 commits per second."""
    bars = [
        (f"{each.peer}: {each.measure.removeprefix('commit to ').partition(',')[0]}", each.spread)
        for each in figures.select(rate=1000)
        if each.measure.endswith("median") and each.conditions.get("rooms") != _ONE_ROOM
    ]
    return [Bars("median", "After the commit returned, median", "ms", bars)] if bars else []


def _record(bench: Bench, taker: str, rate: int, turn: Turn) -> None:
    rooms = _OURS.get(taker)
    peer = taker if rooms is None else OURS
    conditions: dict[str, Condition] = {"rate": rate}
    if rooms is not None:
        conditions["rooms"] = rooms
    bench.record(REACHED, peer, "1/s", turn.rate, **conditions)
    for who, share in turn.shares.items():
        bench.record(SHARE.format(who), peer, "", share, **conditions)
    for who, waited in turn.delays.items():
        bench.record(MEDIAN.format(who), peer, "ms", 1000 * percentile(waited, 0.5), **conditions)
        bench.record(LATEST.format(who), peer, "ms", 1000 * percentile(waited, 0.99), **conditions)
