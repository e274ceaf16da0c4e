"""Runs one kind: strike, wait until it moves again, and compare every key with an honest recount now and then."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.torture.crashes import consumer_kills, postgres_crashes, redis_crashes
from tests.torture.failovers import postgres_failovers, redis_failovers
from tests.torture.figures import Figures
from tests.torture.kind import Kind
from tests.torture.scene import Scene, traffic

SCENES: Final[Mapping[Kind, Callable[[Path], AbstractContextManager[Scene]]]] = MappingProxyType(
    {
        Kind.CONSUMER_KILLS: consumer_kills,
        Kind.POSTGRES_CRASHES: postgres_crashes,
        Kind.REDIS_CRASHES: redis_crashes,
        Kind.REDIS_FAILOVERS: redis_failovers,
        Kind.POSTGRES_FAILOVERS: postgres_failovers,
    }
)

_BLOCK: Final = 20
"""Strikes between two comparisons. A number that went wrong stays wrong, unless everything is counted again."""

Show = Callable[[Figures], None]


def torture(figures: Figures, count: int, folder: Path, show: Show) -> None:
    """Strike until so many deaths; what is found is added to `figures`, also when it fails half-way."""
    chance = random.Random(figures.seed)
    began = time.monotonic()
    try:
        with SCENES[figures.kind](folder) as scene:
            while figures.deaths < count and figures.passed:
                _block(scene, chance, figures, min(_BLOCK, count - figures.deaths), show)
                figures.seconds = time.monotonic() - began
                show(figures)
    except AssertionError as error:
        figures.findings.append(f"after {figures.deaths} deaths: {error}")
    figures.seconds = time.monotonic() - began


def _block(scene: Scene, chance: random.Random, figures: Figures, strikes: int, show: Show) -> None:
    epochs = {scene.cast.deployment.epoch()}
    with traffic(scene.cast.deployment.dsn) as writing:
        try:
            for _ in range(strikes):
                struck = time.monotonic()
                strike = scene.strike(chance)
                scene.cast.wait_moving()
                figures.recoveries.append(time.monotonic() - struck)
                figures.deaths += strike.deaths
                figures.variants[strike.variant] += 1
                epochs.add(scene.cast.deployment.epoch())
                show(figures)
        finally:
            figures.transactions += writing.committed
    found = scene.cast.compare()
    epochs.add(scene.cast.deployment.epoch())
    figures.epochs_begun += len(epochs - {""}) - 1
    figures.comparisons += 1
    figures.keys_compared += found.keys
    figures.screens_compared += found.screens
    figures.differences += len(found.wrong)
    wrong = sorted(found.wrong.items())[:10]
    figures.findings += [f"{key}: tally {tally}, truth {truth}" for key, (tally, truth) in wrong]
