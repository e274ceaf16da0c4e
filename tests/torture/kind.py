"""The kinds of torture, and how many of each a release is to have survived."""

from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """What dies again and again."""

    CONSUMER_KILLS = "consumer_kills"
    POSTGRES_CRASHES = "postgres_crashes"
    REDIS_CRASHES = "redis_crashes"
    REDIS_FAILOVERS = "redis_failovers"
    POSTGRES_FAILOVERS = "postgres_failovers"


WANTED = MappingProxyType(
    {
        Kind.CONSUMER_KILLS: 1000,
        Kind.POSTGRES_CRASHES: 200,
        Kind.REDIS_CRASHES: 100,
        Kind.REDIS_FAILOVERS: 100,
        Kind.POSTGRES_FAILOVERS: 50,
    }
)
