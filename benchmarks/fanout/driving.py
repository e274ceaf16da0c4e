"""Drives one contender and its crowd: as fast as it can, or at a rate; says what arrived, and when."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.crowd.watching import Crowd, Seen
from benchmarks.fanout.contenders import Contender

_WARM_UP_SECONDS: Final = 0.2
_POLL_SECONDS: Final = 0.0005
_SETTLE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came in `seconds`. `clients_cpu` is the share of a core that receiving it took."""

    events: int
    seconds: float
    clients_cpu: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


class Driver:
    """One contender with its crowd connected. Counts waves of each kind, which are the values that clients see."""

    def __init__(self, contender: Contender, crowd: Crowd) -> None:
        self.contender = contender
        self.crowd = crowd
        self._waves: dict[str, int] = {}

    def saturate(self, kind: str, seconds: float) -> Delivered:
        """Have the next wave ready all the time."""
        base = self._begin(kind)
        self._push(kind, base, _WARM_UP_SECONDS)
        events, began = self.crowd.events, time.monotonic()
        self._push(kind, base, seconds)
        events, seconds = self.crowd.events - events, time.monotonic() - began
        whole = _WARM_UP_SECONDS + seconds
        used = self._end(kind, base)
        return Delivered(events, seconds, used / whole)

    def pace(self, kind: str, rate: float, seconds: float) -> list[float]:
        """Send waves at a fixed rate whatever becomes of them; return each client's seconds for each wave, sorted.

        A wave counts as seen once its value or a later one is: conflation leaves values out.
        """
        base = self._begin(kind)
        sent: dict[int, int] = {}
        began = time.monotonic()
        for number in range(round(rate * seconds)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            value = self._waves[kind] + 1
            sent[value] = time.monotonic_ns()
            self._send(kind, value)
        self._end(kind, base)
        return sorted(waits(self.crowd.seen(), sent, base))

    def _begin(self, kind: str) -> int:
        base = self._waves.setdefault(kind, 0)
        self.crowd.begin(base)
        return base

    def _push(self, kind: str, base: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            behind = self._waves[kind] - base - self.crowd.values / self.crowd.count
            if behind < self.contender.ahead:
                self._send(kind, self._waves[kind] + 1)
            else:
                time.sleep(_POLL_SECONDS)

    def _send(self, kind: str, value: int) -> None:
        self._waves[kind] = value
        self.contender.send(kind, value)

    def _end(self, kind: str, base: int) -> float:
        """Wait until everybody has seen the last wave; return the CPU time that the clients used."""
        late = time.monotonic() + _SETTLE_SECONDS
        while self.crowd.values < (self._waves[kind] - base) * self.crowd.count:
            if time.monotonic() > late:
                raise TimeoutError(f"not everybody has seen wave {self._waves[kind]} of {kind}")
            time.sleep(_POLL_SECONDS)
        return self.crowd.end()


def waits(seen: list[Seen], sent: dict[int, int], base: int) -> Iterator[float]:
    """Return how long each client waited for each value sent after `base`, in seconds."""
    last: dict[int, int] = {}
    for each in seen:
        for value in range(last.get(each.client, base) + 1, each.value + 1):
            yield (each.at - sent[value]) / 1e9
        last[each.client] = each.value
