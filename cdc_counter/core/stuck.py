"""When a slot is given up that its server can't decode: it has failed again and again, and came no further.

PostgreSQL (15 to 18, as seen) can make such a slot: where one transaction empties or rewrites a table while the slot is
created, and another one, already writing then, writes to that table next. The first is not known to the second's
snapshot, so that no reader of the slot ever gets past the second: "could not map filenumber ... to relation OID".
"""

from typing import Final

from cdc_counter.core.watermark import Watermark

MOST_FAILURES: Final = 6
"""In a row at one place: about three seconds, with the pauses between them. One alone may have passed by the next."""


class Stuck:
    """How often decoding has failed where the watermark stands."""

    def __init__(self) -> None:
        self._at: Watermark | None = None
        self._failures = 0

    def failed(self, watermark: Watermark) -> bool:
        """Take note of a failure; return whether there is no hope left."""
        self._failures = self._failures + 1 if watermark == self._at else 1
        self._at = watermark
        return self._failures >= MOST_FAILURES
