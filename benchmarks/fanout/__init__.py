"""Fan-out: what one process can deliver to how many clients, how soon, and what a client costs it in memory."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, PeerMissingError
from benchmarks.chart import Chart, Lines
from benchmarks.crowd.plan import Plan
from benchmarks.crowd.watching import Crowd
from benchmarks.fanout.contenders import (
    AIOHTTP,
    DEFAULT_TICK,
    EMIT,
    NODE,
    SHORTEST_TICK,
    SOCKETIO,
    TRANSPORTS,
    Contender,
    node_peer,
    ours,
    python_peer,
)
from benchmarks.fanout.driving import Driver
from benchmarks.fanout.servers.waves import COUNTERS, ONE, SPREAD
from benchmarks.figures import OURS, Condition, Figures
from benchmarks.installing import npm_version_of
from benchmarks.stage import memory
from benchmarks.targets import Target

TITLE: Final = "Fan-out"

RATE: Final = "deliveries"
MEDIAN: Final = "delivery, median"
LATEST: Final = "delivery, 99th percentile"
MEMORY: Final = "memory of the server per client"
CLIENTS_CPU: Final = "share of a core that the clients used"

_OFFERED: Final = 10_000
"""Deliveries per second at which it is measured how soon they come: what the slowest can do."""

_IN_A_ROOM: Final = 10
_LABEL: Final = {ONE: "one", SPREAD: f"{_IN_A_ROOM} clients each"}
_AT_1000: Final[Mapping[str, Condition]] = {"clients": 1000, "rooms": _LABEL[ONE]}

TARGETS: Final = (
    Target(RATE, {**_AT_1000, "tick_ms": SHORTEST_TICK}, to=EMIT, to_conditions=_AT_1000, at_least=5),
    Target(RATE, {**_AT_1000, "tick_ms": SHORTEST_TICK}, to=NODE, to_conditions=_AT_1000, at_least=1.3),
    Target(LATEST, {**_AT_1000, "tick_ms": DEFAULT_TICK}, at_most=DEFAULT_TICK + 20),
)

_SECONDS: Final = {100: 0.5, 1000: 0.8, 5000: 1.2}
"""Of each measurement, by clients: a wave to 5,000 clients takes the slowest a quarter of a second."""


@dataclass(frozen=True, slots=True)
class _Entrant:
    """A contender and what it is measured for. Ours comes twice: a tick is what it has and the others have not."""

    peer: str
    opening: Callable[[Path, int], AbstractContextManager[Contender]]
    tick: int | None = None
    saturated: bool = True
    paced: bool = True

    @property
    def label(self) -> str:
        """What its turn is called."""
        return self.peer if self.tick is None else f"{self.peer}, tick of {self.tick} ms"

    @property
    def conditions(self) -> dict[str, Condition]:
        """What is said of its figures beside clients and rooms."""
        return {} if self.tick is None else {"tick_ms": self.tick}


_ENTRANTS: Final = (
    _Entrant(OURS, partial(ours, tick=DEFAULT_TICK), DEFAULT_TICK, saturated=False),
    _Entrant(OURS, partial(ours, tick=SHORTEST_TICK), SHORTEST_TICK, paced=False),
    _Entrant(EMIT, partial(python_peer, module="emit", socketio=True)),
    _Entrant(NODE, node_peer),
    _Entrant(AIOHTTP, partial(python_peer, module="websockets", socketio=False)),
    _Entrant(TRANSPORTS, partial(python_peer, module="transports", socketio=False), paced=False),
)


def run(bench: Bench) -> None:
    """Measure."""
    for clients in (1000,) if bench.quick else _SECONDS:
        if not bench.wants(f"{clients}-clients"):
            continue
        with ExitStack() as stack:
            drivers: dict[str, Driver] = {}
            for entrant in _ENTRANTS:
                try:
                    drivers[entrant.label] = _connected(bench, stack, entrant, clients)
                except PeerMissingError as error:
                    bench.note_missing(entrant.peer, error)
            _measure(bench, drivers, clients)
    bench.note_version(NODE, npm_version_of(SOCKETIO, SOCKETIO))


def charts(figures: Figures) -> Sequence[Chart]:
    """Draw deliveries per second by clients, for one room and for many."""
    drawn = []
    for kind, rooms in _LABEL.items():
        found = figures.select(RATE, rooms=rooms)
        lines: dict[str, list[tuple[float, float]]] = {}
        for each in found:
            lines.setdefault(each.peer, []).append((float(each.conditions["clients"]), each.spread.median))
        if lines:
            drawn.append(Lines(kind, f"Rooms: {rooms}", "clients", "deliveries per second", lines))
    return drawn


def _connected(bench: Bench, stack: ExitStack, entrant: _Entrant, clients: int) -> Driver:
    """Start a contender and connect its crowd, each client to the one room and to its small one."""
    contender = stack.enter_context(entrant.opening(bench.folder, clients // _IN_A_ROOM))
    before = memory(contender.pid)
    rooms: list[list[tuple[str, str | None]]] = [
        [(COUNTERS[ONE], None), (COUNTERS[SPREAD], str(number // _IN_A_ROOM))] for number in range(clients)
    ]
    plan = Plan(contender.port, progress="", rooms=rooms, socketio=contender.socketio)
    driver = Driver(contender, stack.enter_context(Crowd(plan, bench.folder)))
    if entrant.paced:
        grown = (memory(contender.pid) - before) / clients / 1024
        bench.record(MEMORY, entrant.peer, "KiB", grown, clients=clients)
    return driver


def _measure(bench: Bench, drivers: Mapping[str, Driver], clients: int) -> None:
    entrants = {each.label: each for each in _ENTRANTS if each.label in drivers}
    for label in bench.turns(f"{clients:,} clients", list(entrants)):
        entrant, driver = entrants[label], drivers[label]
        for kind, rooms in _LABEL.items():
            conditions = {"clients": clients, "rooms": rooms, **entrant.conditions}
            if entrant.saturated:
                delivered = driver.saturate(kind, _SECONDS[clients])
                bench.record(RATE, entrant.peer, "1/s", delivered.rate, **conditions)
                bench.record(CLIENTS_CPU, entrant.peer, "", delivered.clients_cpu, **conditions)
            if entrant.paced:
                waits = driver.pace(kind, _OFFERED / clients, _SECONDS[clients])
                bench.record(MEDIAN, entrant.peer, "ms", 1000 * waits[len(waits) // 2], **conditions)
                bench.record(LATEST, entrant.peer, "ms", 1000 * waits[len(waits) * 99 // 100], **conditions)
