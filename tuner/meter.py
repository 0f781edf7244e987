"""Slot time: what trials took, what running ones may still take, the cap on it. Needs no ray."""

import math
import time
from collections.abc import Callable, Sequence

from tuner import throughput
from tuner.config import Sweep
from tuner.ledger import Ledger
from tuner.plan import slot_seconds, time_cap
from tuner.slot import read

Clock = Callable[[], float]
"""Seconds, from any beginning; never backwards."""
PATIENCE, LEAST_PATIENCE = 10.0, 600.0
"""A trial is given up after this many times what its next report should take, and so many seconds:
another size may be ten times slower than the sweep's average, and a device may compile at first."""


def patience(seconds: float, least: float = LEAST_PATIENCE) -> float:
    """Seconds without a report after which a trial hangs whose next one should take `seconds`."""
    return max(least, PATIENCE * seconds)


class _Slot:
    """A slot while it is taken: its time, shared out among the trials in it."""

    def __init__(self, keys: Sequence[str], now: float) -> None:
        self.owed = dict.fromkeys(keys, 0.0)
        """Seconds of each trial that were not booked yet."""
        self._now = self._booked = now

    def share(self, now: float) -> None:
        """Let the time since the last call be all trials' alike."""
        for key in self.owed:
            self.owed[key] += (now - self._now) / len(self.owed)
        self._now = now

    def book(self, key: str) -> float:
        """Seconds of a trial since they were last booked."""
        self._booked = self._now
        seconds, self.owed[key] = self.owed[key], 0.0
        return seconds

    def silence(self, now: float) -> float:
        """Seconds since any of its trials was booked."""
        return now - self._booked


class Meter:
    """The time that a sweep's trials occupy their slots, kept in its ledger."""

    def __init__(self, sweep: Sweep, ledger: Ledger, clock: Clock) -> None:
        self._assumed = throughput.known(sweep).typical
        self._limit = slot_seconds(sweep, read(ledger).trials_per_gpu)
        self._ledger = ledger
        self._clock = clock
        self._slots: dict[str, _Slot] = {}

    def begin(self, *keys: str) -> None:
        """Trials take a slot, together."""
        slot = _Slot(keys, self._clock())
        self._slots |= dict.fromkeys(keys, slot)

    def book(self, key: str, *, lost: int = 0) -> None:
        """Write down a trial's share of its slot's time since it was last written down.

        Of an attempt that began before this process did, only the FLOPs it may have lost are known:
        they are booked at the sweep's speed.
        """
        if key not in self._slots:
            self._ledger.occupy(key, self.takes(lost))
            self.begin(key)
            return
        slot = self._slots[key]
        slot.share(self._clock())
        self._ledger.occupy(key, slot.book(key))

    def silence(self, key: str) -> float:
        """Seconds since any trial of its slot took it or was booked; 0 if it has none yet."""
        slot = self._slots.get(key)
        return slot.silence(self._clock()) if slot else 0.0

    def beside(self, key: str) -> list[str]:
        """The trials of its slot, itself among them."""
        return list(self._slots[key].owed) if key in self._slots else [key]

    def takes(self, flops: int) -> float:
        """Seconds that `flops` should take in a slot."""
        return flops / self._speed()

    def end(self, key: str, *, lost: int = 0) -> None:
        """Book a trial's time for the last time."""
        self.book(key, lost=lost)
        self.leave(key)

    def leave(self, key: str) -> None:
        """A trial that was booked leaves its slot to the others in it."""
        if key in self._slots:
            del self._slots.pop(key).owed[key]

    @property
    def spent(self) -> bool:
        """No time is left."""
        return self._ledger.seconds() >= self._limit

    @property
    def room(self) -> float:
        """FLOPs that there is time for, beside all that runs; infinite without a cap on it."""
        if math.isinf(self._limit):
            return math.inf
        left = self._limit - self._ledger.seconds()
        return left * self._speed() - self._ledger.reserved()

    def allows(self, flops: int) -> bool:
        """Is there time for `flops` more, beside all that runs?"""
        return flops <= self.room

    def _speed(self) -> float:
        """FLOP/s of a slot: the sweep's own once it has one, else what the plan reckons with."""
        seconds, charged = self._ledger.seconds(), self._ledger.charged()
        return charged / seconds if seconds and charged else self._assumed


def short(sweep: Sweep, ledger: Ledger, most: float, flops: float) -> str:
    """Which cap leaves no room for `flops` more beside all that runs, as it is written; empty if
    none does.

    Args:
        sweep: which has the caps on time and money.
        ledger: what is spent of them.
        most: FLOPs that may be charged in all.
        flops: of a run.
    """
    if ledger.committed() + flops > most:
        return f"cap.flops = {most:.4g}"
    if not Meter(sweep, ledger, time.monotonic).allows(math.ceil(flops)):
        return time_cap(sweep.cap)
    return ""
