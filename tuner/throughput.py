"""How fast a slot trains: the best that is known, and its source. Needs neither torch nor ray.

Narrow models train slowly, so speed is a function of width: a curve through what was measured.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from model.devices import DEVICES
from tuner.config import Sweep
from tuner.errors import ConfigError
from tuner.ladder import Size

UTILIZATION = 0.4
"""Share of a GPU's peak that training is reckoned to reach: nanochat's 40 to 50 % on H100s is the
best published; small models reach less, which the sweep's own runs then show."""
OWN = "this sweep's own runs"
"""The source once there are some."""
GUESS = "a guess; measure it with: isoflop doctor"
"""The source where nothing is known."""
UNKNOWN = 1e10
"""FLOP/s where nothing is known: a slow core."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `isoflop doctor` found, kept for plans."""

    date: str
    """ISO 8601."""
    device: str
    gpu: bool
    memory: float
    """Of one core's share, or of the GPU, byte."""
    points: Mapping[int, float]
    """Width of a model to FLOP/s of training it in one slot."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What `write` wrote; None if it never did, or it may not be read.

        Raises:
            ConfigError: it is something else.
        """
        try:
            fields: dict[str, Any] = json.loads(path.read_text())
            points = {int(width): float(rate) for width, rate in fields["points"].items()}
            return cls(**(fields | {"points": points}))
        except OSError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(
                f"{path}: not what isoflop doctor writes; run it again, or remove the file"
            ) from None

    def write(self, path: Path) -> None:
        """Keep it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """FLOP/s of one slot by the width of what it trains."""

    source: str
    """Where it is from, in words."""
    points: tuple[tuple[int, float], ...]
    """(d_model, FLOP/s), widths rising."""
    memory: float | None = None
    """Of one slot, byte; None where it is not known."""

    def rate(self, d_model: int) -> float:
        """FLOP/s at a width: between two points straight in log-log, beyond them as at the last."""
        return _between(self.points, d_model)

    @property
    def typical(self) -> float:
        """FLOP/s where no width is named: the geometric mean."""
        return math.exp(sum(math.log(rate) for _, rate in self.points) / len(self.points))

    def corrected(self, own: Mapping[Size, float]) -> Self:
        """With what a sweep's own runs reached, FLOP/s by size.

        Their widths get their own rates; what lies between or beyond is moved as they are.
        """
        if not own:
            return self
        found: dict[int, list[float]] = {}
        for (_, width), rate in own.items():
            found.setdefault(width, []).append(rate)
        # Sizes of one width get the same FLOPs: their times add up.
        rates = {width: len(some) / sum(1 / r for r in some) for width, some in found.items()}
        moved = [(width, rates[width] / self.rate(width)) for width in sorted(rates)]
        widths = sorted({*rates, *(width for width, _ in self.points)})
        points = tuple((width, self.rate(width) * _between(moved, width)) for width in widths)
        return replace(self, source=OWN, points=points)


def known(sweep: Sweep, measured: Measured | None = None) -> Throughput:
    """What is known before a sweep has runs of its own.

    In this order: `resources.flops_per_second` as written, a share of the peak of
    `resources.device`, what the doctor measured here if it is of the kind asked for, nothing.
    """
    resources = sweep.resources
    shared = 1 if resources.trials_per_gpu == "auto" else resources.trials_per_gpu
    share = min(1.0, resources.gpus_per_trial) / shared
    name = resources.device
    memory = None if name is None else DEVICES[name].memory * share
    here = measured is not None and measured.gpu == (resources.gpus_per_trial > 0)
    if measured is not None and here and name is None:
        memory = measured.memory * (share if measured.gpu else max(1.0, resources.cpus_per_trial))
    if resources.flops_per_second is not None:
        source, points = "resources.flops_per_second", [(1, resources.flops_per_second)]
    elif name is not None:
        peak = DEVICES[name].peak(dtype(sweep))
        source = f"{UTILIZATION:.0%} of the {name}'s {peak:.3g} FLOP/s"
        points = [(1, UTILIZATION * share * peak)]
    elif measured is not None and here:
        source = f"isoflop doctor on {measured.date}, {measured.device}"
        share = share if measured.gpu else 1.0
        points = [(width, share * rate) for width, rate in sorted(measured.points.items())]
    else:
        source, points = GUESS, [(1, UNKNOWN)]
    return Throughput(source=source, points=tuple(points), memory=memory)


def dtype(sweep: Sweep) -> Any:
    """The dtype of products that a plan reckons with, where the sweep leaves it open."""
    asked = sweep.training.dtype
    if asked != "auto":
        return asked
    return "bfloat16" if sweep.resources.gpus_per_trial else "float32"


def _between(points: Sequence[tuple[int, float]], width: int) -> float:
    """The value at `width` of a curve that is straight in log-log, and flat beyond its ends."""
    if width <= points[0][0]:
        return points[0][1]
    for (low, below), (high, above) in pairwise(points):
        if width <= high:
            part = math.log(width / low) / math.log(high / low)
            return math.exp((1 - part) * math.log(below) + part * math.log(above))
    return points[-1][1]
