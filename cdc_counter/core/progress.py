"""The LSNs of a stream: received, applied, durable, confirmed; they only move forward, and in that order.

received: got from the stream. applied: in Redis. durable: applied, and kept there as the confirm policy asks.
confirmed: told to the slot. confirmed <= durable <= applied <= received always holds, so that `confirmed_flush_lsn >
watermark` can only ever mean that Redis lost writes.
"""

from dataclasses import dataclass

from cdc_counter.core.lsn import Lsn


@dataclass(slots=True)
class Progress:
    """End positions only; moving one backwards or past its predecessor is a bug and raises ValueError."""

    received: Lsn
    applied: Lsn
    durable: Lsn
    confirmed: Lsn

    @classmethod
    def starting_at(cls, watermark: Lsn, durable: Lsn) -> "Progress":
        """Begin where Redis stands; of that, everything through `durable` was confirmed before, or may be now."""
        return cls(watermark, watermark, durable, durable)

    def receive(self, lsn: Lsn) -> None:
        """Note an end position seen on the stream; an older one changes nothing (keepalives repeat themselves)."""
        self.received = max(self.received, lsn)

    def apply(self, lsn: Lsn) -> None:
        """Note that Redis holds everything through `lsn`."""
        if not self.applied <= lsn <= self.received:
            raise ValueError(f"applied {lsn} must lie between {self.applied} and received {self.received}")
        self.applied = lsn

    def keep(self, lsn: Lsn) -> None:
        """Note that everything through `lsn` is durable."""
        if not self.durable <= lsn <= self.applied:
            raise ValueError(f"durable {lsn} must lie between {self.durable} and applied {self.applied}")
        self.durable = lsn

    def confirm(self, lsn: Lsn) -> None:
        """Note that the slot was told `lsn`."""
        if not self.confirmed <= lsn <= self.durable:
            raise ValueError(f"confirmed {lsn} must lie between {self.confirmed} and durable {self.durable}")
        self.confirmed = lsn
