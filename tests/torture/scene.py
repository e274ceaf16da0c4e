"""What is tortured: one deployment under traffic, two consumers of which one stands by, clients, and an honest recount.

A scene knows how to strike once. Whoever runs it counts, compares and times.
"""

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from tests.fault.deployment import Deployment, Traffic, honest_recount
from tests.rig.daemon import Daemon
from tests.rig.eventually import eventually_sync
from tests.rig.tallies import all_tallies, differences, end_of_wal, wait_applied, watermark
from tests.rig.watchers import Room, Watchers

_PATIENCE: Final = 60.0
"""Seconds on a quiet machine. What takes longer is a finding."""

_ROOMS: Final[tuple[Room, ...]] = (("conversations", "-"), ("amount_by_shop", "-"), ("open_by_channel", "0"))
_CLIENTS: Final = 6
_SETTINGS: Final = "[stream]\nstatus_seconds = 0.5\nheartbeat_seconds = 1\n[verify]\nshare = 0"
"""No verifying by the daemon: the recount here is the judge, and what it is to find must not be found before."""


@dataclass(frozen=True, slots=True)
class Strike:
    """What was done, and how many deaths of the scene's kind it was."""

    variant: str
    deaths: int = 1


class Scene(Protocol):
    """One kind's servers, with two consumers."""

    cast: "Cast"

    def strike(self, chance: random.Random) -> Strike:
        """Let something die, and bring back what does not come back by itself."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one recount found: how many keys, (tally, truth) where they differ, and how many screens were right."""

    keys: int
    wrong: dict[tuple[str, str, str], tuple[int, int]]
    screens: int


@dataclass(frozen=True, slots=True)
class Cast:
    """The deployment, its two consumers with their gateways, and clients of both."""

    deployment: Deployment
    daemons: tuple[Daemon, Daemon]
    watchers: Watchers

    def wait_moving(self) -> None:
        """Wait until something that is committed from now on is in the tallies."""
        goal = end_of_wal(self.deployment.dsn)

        def reached() -> bool:
            self._require_alive()
            try:
                return watermark(self.deployment.redis_url) >= goal
            except AssertionError:
                # A rebuild is about to begin: nothing is there at all.
                return False

        eventually_sync(reached, f"watermark at {goal}", deadline=_PATIENCE)

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

    def kill_all(self) -> None:
        """Kill both consumers and start them again."""
        for daemon in self.daemons:
            daemon.kill()
        for daemon in self.daemons:
            daemon.start()

    def compare(self) -> Comparison:
        """Wait until all is applied and live, then compare every key, and what the clients show."""
        wait_applied(self.deployment.dsn, self.deployment.redis_url, deadline=_PATIENCE)
        truth = honest_recount(self.deployment.dsn)
        wrong = differences(all_tallies(self.deployment.redis_url), truth)
        if not wrong:
            shown: dict[Room, dict[str, int]] = defaultdict(dict)
            for (counter, scope, bucket), value in truth.items():
                shown[counter, scope][bucket] = value
            self.watchers.wait_equal(shown, deadline=_PATIENCE)
        return Comparison(len(truth), wrong, _CLIENTS * len(_ROOMS))

    def _require_alive(self) -> None:
        """Fail when a consumer ended by itself: nothing that is done to it here is a reason to."""
        for daemon in self.daemons:
            assert daemon.running, f"a consumer ended with {daemon.process.returncode}: {daemon.log_text()[-2000:]}"


@contextmanager
def cast(deployment: Deployment) -> Iterator[Cast]:
    """Install the counters, start both consumers, with failpoints to be armed, and the clients."""
    with ExitStack() as stack:
        deployment.init()
        config = deployment.write_config("tortured", extra=_SETTINGS)
        one, two = (
            deployment.daemon(name, config, program=deployment.failpoints.program).start() for name in ("one", "two")
        )
        for daemon in (one, two):
            stack.callback(daemon.kill)
        urls = [f"http://127.0.0.1:{daemon.port}" for daemon in (one, two)]
        yield Cast(deployment, (one, two), stack.enter_context(Watchers(urls, _ROOMS, _CLIENTS)))


def traffic(dsn: str) -> Traffic:
    """Return writers that leave some of the machine to what is tortured; what they must not see fails it."""
    return Traffic(dsn)


def pause(chance: random.Random, most: float) -> None:
    """Let some time pass, so that a strike meets any moment of what goes on."""
    time.sleep(chance.random() * most)


def _last_line(daemon: Daemon, words: str) -> str:
    """Return the last line of its log with these words: it begins with its time. '' without one."""
    return next((line for line in reversed(daemon.log_text().splitlines()) if words in line), "")
