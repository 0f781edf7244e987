"""How often somebody may ask: a bucket of tokens each."""

import time
from collections.abc import Callable


class Rates:
    """Admits each of many at so many requests a second, in bursts of up to a second's worth."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._burst = max(1.0, per_second)
        self._clock = clock
        self._buckets: dict[int, tuple[float, float]] = {}

    def admits(self, who: int) -> bool:
        """Take one request of `who`, if there is one left."""
        now = self._clock()
        left, then = self._buckets.get(who, (self._burst, now))
        left = min(self._burst, left + (now - then) * self.per_second)
        self._buckets[who] = (left - 1 if left >= 1 else left, now)
        return left >= 1
