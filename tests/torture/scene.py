"""What is tortured: one deployment under traffic, two consumers of which one stands by, and an honest recount.

A scene knows how to strike once. Whoever runs it counts, compares and times.
"""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.fault.deployment import Deployment, Traffic, honest_recount
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.tallies import all_tallies, differences, end_of_wal, wait_applied, watermark

_PATIENCE = 120.0
"""Seconds. What takes longer is a finding."""


class Scene(Protocol):
    """One kind's servers, with two consumers."""

    cast: "Cast"

    def strike(self, chance: random.Random) -> str:
        """Let something die once, and bring back what does not come back by itself; returns which variant it was."""


@dataclass
class Cast:
    """The deployment and its two consumers. `orders`: where failpoints are armed."""

    deployment: Deployment
    orders: Path
    daemons: tuple[Daemon, Daemon]

    def wait_moving(self) -> None:
        """Wait until something that is committed from now on is in the tallies."""
        goal = end_of_wal(self.deployment.dsn)

        def reached() -> bool:
            self.require_alive()
            try:
                return watermark(self.deployment.redis_url) >= goal
            except AssertionError:
                # A rebuild is about to begin: nothing is there at all.
                return False

        eventually_sync(reached, f"watermark at {goal}", deadline=_PATIENCE)

    def require_alive(self) -> None:
        """Fail when a consumer ended by itself: nothing that is done to it here is a reason to."""
        for daemon in self.daemons:
            assert daemon.running, f"a consumer ended with {daemon.process.returncode}: {daemon.log_text()[-2000:]}"

    def leader(self) -> Daemon:
        """Return the consumer that streams; wait until one does."""

        def streaming() -> Daemon | None:
            if not self.deployment.walsender():
                return None
            # Each says when it begins to stream and when it begins to stand by; the latest beginning counts.
            begun = [(_last_line(daemon, "streaming slot"), daemon) for daemon in self.daemons if daemon.running]
            begun = [(at, daemon) for at, daemon in begun if at > _last_line(daemon, "standing by")]
            return max(begun, key=lambda pair: pair[0])[1] if begun else None

        found = eventually_sync(streaming, "a consumer streams", deadline=_PATIENCE)
        assert found is not None
        return found

    def compare(self) -> tuple[int, dict[tuple[str, str, str], tuple[int, int]]]:
        """Wait until all is applied and live; returns how many keys there are, and (tally, truth) where wrong."""
        wait_applied(self.deployment.dsn, self.deployment.redis_url, deadline=_PATIENCE)
        truth = honest_recount(self.deployment.dsn)
        return len(truth), differences(all_tallies(self.deployment.redis_url), truth)


@contextmanager
def cast(deployment: Deployment, *, settings: str = "") -> Iterator[Cast]:
    """Install the counters and start both consumers, with failpoints to be armed."""
    orders = deployment.folder / "orders"
    orders.mkdir()
    deployment.init()
    config = deployment.write_config("tortured", extra=settings)
    daemons = []
    for name in ("one", "two"):
        daemon = deployment.daemon(name, config)
        daemon._program = (sys.executable, "-m", "tests.rig.failpoints", str(orders))
        daemons.append(daemon.start())
    one, two = daemons
    yield Cast(deployment, orders, (one, two))


@contextmanager
def traffic(dsn: str) -> Iterator[Traffic]:
    """Write beside what happens; a writer that sees anything but a lost server fails it."""
    with Traffic(dsn, count=2) as writing:
        yield writing


def _last_line(daemon: Daemon, words: str) -> str:
    """Return the last line of its log with these words: it begins with its time. '' without one."""
    return next((line for line in reversed(daemon.log_text().splitlines()) if words in line), "")


def pause(chance: random.Random, most: float) -> None:
    """Let some time pass, so that a strike meets any moment of what goes on."""
    time.sleep(chance.random() * most)
