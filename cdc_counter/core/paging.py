"""Reading a counter's tallies piece by piece, each piece with the watermark it is true for.

A small hash is read whole, several in one page. A large one is read part by part as SCAN gives them, so that Redis is
never busy with it for long; what may have moved under the scan is then asked for by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cdc_counter.core.watermark import Watermark


@dataclass(frozen=True, slots=True)
class WholeScopes:
    """All buckets of some scopes."""

    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartOfScope:
    """Some buckets of a large scope. `cursor` is SCAN's; 0 at the start."""

    scope: str
    cursor: int = 0


@dataclass(frozen=True, slots=True)
class NamedBuckets:
    """Some buckets by name."""

    scope: str
    buckets: tuple[str, ...]


PageRequest = WholeScopes | PartOfScope | NamedBuckets


@dataclass(frozen=True, slots=True)
class TallyPage:
    """What one request read at one moment. `tallies` maps scope to buckets; `cursor` goes on from here, 0 at the end.

    Of named buckets, those that are gone are 0.
    """

    epoch: str
    watermark: Watermark
    tallies: Mapping[str, Mapping[str, int]]
    cursor: int = 0
