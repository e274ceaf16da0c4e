"""A token bucket: how many messages a client may send. No clock of its own."""


class Budget:
    """Allows `per_second` messages on average, and as many at once as it allows in `burst_seconds`."""

    __slots__ = ("_burst", "_left", "_per_second", "_seen")

    def __init__(self, per_second: float, now: float, *, burst_seconds: float = 4.0) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second * burst_seconds)
        self._left = self._burst
        self._seen = now

    def take(self, now: float) -> bool:
        """Return whether one more message is allowed at `now` (seconds of a clock that never goes back)."""
        self._left = min(self._burst, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
