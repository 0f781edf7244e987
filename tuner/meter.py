"""Slot time: what trials took, what running ones may still take, the cap on it. Needs no ray."""

import math
from collections.abc import Callable

from tuner import throughput
from tuner.config import Sweep
from tuner.ledger import Ledger
from tuner.plan import slot_seconds

Clock = Callable[[], float]
"""Seconds, from any beginning; never backwards."""


class Meter:
    """The time that a sweep's trials occupy their slots, kept in its ledger."""

    def __init__(self, sweep: Sweep, ledger: Ledger, clock: Clock) -> None:
        self._assumed = throughput.known(sweep).typical
        self._limit = slot_seconds(sweep.cap)
        self._ledger = ledger
        self._clock = clock
        self._since: dict[str, float] = {}

    def begin(self, key: str) -> None:
        """A trial takes its slot."""
        self._since[key] = self._clock()

    def book(self, key: str, *, lost: int = 0) -> None:
        """Write down a trial's time since it was last written down.

        Of an attempt that began before this process did, only the FLOPs it may have lost are known:
        they are booked at the sweep's speed.
        """
        now = self._clock()
        since = self._since.get(key)
        self._ledger.occupy(key, self.takes(lost) if since is None else now - since)
        self._since[key] = now

    def silence(self, key: str) -> float:
        """Seconds since a trial took its slot or was last booked; 0 if it has none yet."""
        return self._clock() - self._since[key] if key in self._since else 0.0

    def takes(self, flops: int) -> float:
        """Seconds that `flops` should take in a slot."""
        return flops / self._speed()

    def end(self, key: str, *, lost: int = 0) -> None:
        """A trial leaves its slot."""
        self.book(key, lost=lost)
        del self._since[key]

    @property
    def spent(self) -> bool:
        """No time is left."""
        return self._ledger.seconds() >= self._limit

    def allows(self, flops: int) -> bool:
        """Is there time for `flops` more, beside all that runs?"""
        if math.isinf(self._limit):
            return True
        ahead = self._ledger.reserved() + flops
        return self._ledger.seconds() + self.takes(ahead) <= self._limit

    def _speed(self) -> float:
        """FLOP/s of a slot: the sweep's own once it has one, else what the plan reckons with."""
        seconds, charged = self._ledger.seconds(), self._ledger.charged()
        return charged / seconds if seconds and charged else self._assumed
