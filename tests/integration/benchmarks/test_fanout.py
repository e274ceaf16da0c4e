"""What is measured is what is meant: every client of the crowd sees every wave that our gateway is fed."""

from pathlib import Path

import pytest

from benchmarks.crowd.plan import Plan
from benchmarks.crowd.watching import Crowd
from benchmarks.fanout.contenders import DEFAULT_TICK, ours
from benchmarks.fanout.driving import Driver
from benchmarks.fanout.servers.waves import COUNTERS, ONE, SPREAD

pytestmark = pytest.mark.programme


def test_every_client_sees_every_wave(tmp_path: Path) -> None:
    rooms: list[list[tuple[str, str | None]]] = [
        [(COUNTERS[ONE], None), (COUNTERS[SPREAD], str(number % 3))] for number in range(6)
    ]
    with (
        ours(tmp_path, rooms=3, tick=DEFAULT_TICK) as gateway,
        Crowd(Plan(gateway.port, progress="", rooms=rooms), tmp_path) as crowd,
    ):
        driver = Driver(gateway, crowd)
        for kind in (ONE, SPREAD):
            assert len(driver.pace(kind, rate=50, seconds=0.2)) == 10 * len(rooms)
        delivered = driver.saturate(ONE, seconds=0.1)
    assert delivered.events >= len(rooms)
