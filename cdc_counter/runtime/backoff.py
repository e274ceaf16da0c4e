"""How long to wait before trying again: doubling, jittered, for ever.

Jitter keeps a fleet from coming back at the same moment. Interrupted at once by the stop event.
"""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

from cdc_counter.cancellation import honour_cancellation


@dataclass(slots=True)
class Backoff:
    """Waits from `first` seconds up to `most`, each time between half and the whole of the step."""

    first: float
    most: float
    _attempt: int = field(default=0)

    def reset(self) -> None:
        """Start again from `first`: something worked."""
        self._attempt = 0

    def next_delay(self) -> float:
        """Return the next wait in seconds."""
        step = min(self.most, self.first * 2.0 ** min(self._attempt, 30))
        self._attempt += 1
        return step * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, hides nothing

    async def wait(self, stop: asyncio.Event | None = None) -> None:
        """Wait the next delay, or until `stop` is set."""
        await pause(self.next_delay(), stop or asyncio.Event())


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Wait for some seconds, or until `stop` is set. Every loop passes here, so a lost cancellation ends here."""
    honour_cancellation()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
