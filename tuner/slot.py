"""What a trial runs on and how it computes: settled once a sweep, where trials run. No torch.

Every worker, retry and `resume` uses what stands in the ledger, whatever machine it finds itself
on, so that the rows of a sweep compare.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from model.memory import DEVICES, Split, TooLargeError, spread
from model.shape import Shape
from model.speed import Dtype, Speed
from tuner.ledger import Ledger
from tuner.sections import Resources

FACT = "slot"
"""Its name in the ledger."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What one trial has."""

    speed: Speed = field(default_factory=Speed)
    """How it computes."""
    memory: float = math.inf
    """For weights and activations, byte."""
    peaks: dict[str, float] = field(default_factory=dict)
    """FLOP/s of matrix products in the chosen dtype, by device."""
    trials_per_gpu: int = 1
    """Trials that share a GPU."""
    devices: int = DEVICES[-1]
    """That one trial may be split over, at most, where their number is left open."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**(fields | {"speed": Speed(**fields["speed"])}))

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self))

    def split(self, shape: Shape, batch_size: int, resources: Resources) -> Split:
        """How a batch is computed so that it fits.

        Raises:
            TooLargeError: one sequence does not.
        """
        fused = resources.gpus_per_trial > 0
        devices = None if resources.devices == "auto" else resources.devices
        return spread(
            shape,
            batch_size,
            self.memory,
            self.speed.dtype,
            fused=fused,
            devices=devices,
            at_most=self.devices,
        )

    def holds(self, shape: Shape, batch_size: int, resources: Resources) -> bool:
        """Does one sequence at least fit?"""
        try:
            self.split(shape, batch_size, resources)
        except TooLargeError:
            return False
        return True

    def determining(
        self, shape: Shape, batch_size: int, resources: Resources
    ) -> tuple[object, ...]:
        """The part that a row is a function of: sums in another order end in other last bits."""
        speed = self.speed
        try:
            split = self.split(shape, batch_size, resources)
        except TooLargeError:
            split = None
        gpu = resources.gpus_per_trial > 0
        return speed.dtype, speed.attention, speed.threads, gpu, split


def most_careful(found: Sequence[Slot]) -> Slot:
    """One slot for devices of several kinds: what every one of them can do.

    The fewest trials a GPU and the least memory; bfloat16 and compiling only where all have it.
    """
    agreed = {slot.speed.dtype for slot in found}
    dtype: Dtype = found[0].speed.dtype if len(agreed) == 1 else "float32"
    alike = [slot for slot in found if slot.speed.dtype == dtype]
    return Slot(
        speed=replace(alike[0].speed, compiles=all(slot.speed.compiles for slot in found)),
        memory=min(slot.memory for slot in found),
        peaks={name: peak for slot in alike for name, peak in slot.peaks.items()},
        trials_per_gpu=min(slot.trials_per_gpu for slot in found),
    )


def settle(ledger: Ledger, find: Callable[[], Slot]) -> Slot:
    """What stands in the ledger; the first time, what `find` finds."""
    text = ledger.fact(FACT)
    return Slot.from_json(ledger.write_fact(FACT, find().to_json()) if text is None else text)


def read(ledger: Ledger) -> Slot:
    """What stands in the ledger; without a word, nothing was chosen."""
    text = ledger.fact(FACT)
    return Slot() if text is None else Slot.from_json(text)
