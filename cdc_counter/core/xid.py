"""Transaction identifiers: 64 bits in rows and snapshots, the low 32 where the stream opens a transaction."""

from typing import Final

XID_LOW: Final = 0xFFFFFFFF
_HALF: Final = 1 << 31


def completed(low: int, near: int) -> int:
    """Return the identifier of 64 bits that ends in `low` and is the nearest to `near`.

    Right whenever the two are less than 2^31 apart. What a slot still has to send is that near to the server's newest
    identifier: the slot's catalog_xmin holds back freezing, and PostgreSQL gives out none further away than that.
    Source: the PostgreSQL manual, "Preventing Transaction ID Wraparound Failures".
    """
    full = near + (low - near + _HALF) % (XID_LOW + 1) - _HALF
    return full if full >= 0 else low
