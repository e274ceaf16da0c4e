"""A token bucket: how many messages a client may send. No clock of its own."""


class Budget:
    """Allows `per_second` messages on average, and `burst` (at least 1) at once."""

    __slots__ = ("_burst", "_left", "_per_second", "_seen")

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
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
