"""Which halves of the product one process runs."""

from enum import StrEnum


class Role(StrEnum):
    """ALL is both in one process."""

    ALL = "all"
    CONSUMER = "consumer"
    GATEWAY = "gateway"
