"""What a parametric fit minimizes: a sum over runs of a penalty on predicted against measured loss.

A penalty sees log predictions and log measurements, whatever space it measures in, and gives its
value and its first two derivatives in the log prediction: that is all a Newton step needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from analysis.laws import Array

Penalty: TypeAlias = Callable[[Array, Array], tuple[Array, Array, Array]]
"""(log prediction, log measurement) → (value, slope, curvature), elementwise."""

DELTA = 1e-3
"""Width of the Huber penalty: Hoffmann et al. (arXiv 2203.15556), appendix D.3."""
LEAD = (1e-1, 1e-2)
"""Widths of the Huber penalties that lead to a narrow one."""
SINGLE = 3e-4
"""Narrower penalties drown in the rounding of single precision."""
CRAWLS = 30
"""Newton steps on the penalty itself after which it is kinks that keep a replicate."""
LOOSE, NEAR = 1e-1, 1e-4
"""Newton steps at which a penalty that leads elsewhere, and one that leads home, are left."""


@dataclass(frozen=True, kw_only=True)
class Lead:
    """A penalty minimized on the way, and only so far."""

    penalty: Penalty
    tolerance: float
    """Step, in logarithms and exponents, that is near enough to its minimum."""
    single: bool = True
    """Whether single precision is enough."""


@dataclass(frozen=True, kw_only=True)
class Interior:
    """The interior path to the minimum of a Huber penalty, and when it is taken."""

    width: float
    after: int
    """Newton steps within which a minimum is found, or else this way is taken."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A penalty, the way that leads to its minimum, and what that is called."""

    name: str
    """In words, as it is printed beside the result."""
    penalty: Penalty
    leads: tuple[Lead, ...]
    """Minimized one after the other, each from the last one's answer, before `penalty` is."""
    interior: Interior | None = None
    """For those that crawl from kink to kink; None: there are no kinks."""
    for_draws: "Objective | None" = None
    """What bootstrap draws minimize in its place; None: itself."""
    scale: float = 1.0
    """Times the sum of penalties: the figure that is reported."""
    mean: bool = False
    """Whether the reported figure is a mean over runs, not a sum."""


def huber(delta: float = DELTA) -> Objective:
    """Sum of Huber penalties on log loss: Hoffmann et al. (arXiv 2203.15556), appendix D.3.

    A sum, not a mean: the mean shrinks gradients by n, and optimizers stop early.
    """
    name = f"sum of Huber({delta:g}) on log loss"
    return Objective(
        name=name, penalty=_huber(delta), leads=_narrowing(_huber, delta),
        interior=Interior(width=delta, after=CRAWLS),
    )  # fmt: skip


def _narrowing(penalty: Callable[[float], Penalty], delta: float) -> tuple[Lead, ...]:
    """Wide penalties, then the one of width `delta` itself."""
    wide = [Lead(penalty=penalty(width), tolerance=LOOSE) for width in LEAD if width > 2 * delta]
    return (*wide, Lead(penalty=penalty(delta), tolerance=NEAR, single=delta >= SINGLE))


def least_absolute(delta: float = 1e-7) -> Objective:
    """Sum of absolute deviations of log loss, as a Huber penalty that narrow.

    The corner is narrow: Huber penalties lead as far as to Hoffmann et al.'s, the interior path
    further. Bootstrap draws stop at Huber(1e-5), absolute enough beside any table's noise.
    """
    return Objective(
        name="sum of absolute deviations of log loss",
        penalty=_huber(delta),
        leads=_narrowing(_huber, max(delta, DELTA)),
        interior=Interior(width=delta, after=0),
        for_draws=least_absolute(1e-5) if delta < 1e-5 else None,
        scale=1 / delta,
    )


def log_squares() -> Objective:
    """Mean squared error of log loss."""
    return Objective(
        name="mean squared error of log loss",
        penalty=_squares,
        leads=(Lead(penalty=_squares, tolerance=NEAR),),
        scale=2,
        mean=True,
    )


def raw_squares() -> Objective:
    """Mean squared error of loss."""
    return Objective(
        name="mean squared error of loss",
        penalty=_raw_squares,
        leads=(
            Lead(penalty=_squares, tolerance=LOOSE),
            Lead(penalty=_raw_squares, tolerance=NEAR),
        ),
        scale=2,
        mean=True,
    )


def lower_envelope(delta: float = DELTA, above: float = 0.1) -> Objective:
    """Huber on log loss, but a run above the law counts only `above` as much as one below it.

    For tables of runs that were not all tuned: the law is to follow the best of them.
    """

    def tilted(width: float) -> Penalty:
        return _tilted(_huber(width), above)

    name = f"sum of Huber({delta:g}) on log loss, runs above the law at {above:g}"
    return Objective(name=name, penalty=tilted(delta), leads=_narrowing(tilted, delta))


def _huber(delta: float) -> Penalty:
    def penalty(predicted: Array, measured: Array) -> tuple[Array, Array, Array]:
        residual = predicted - measured
        slope = np.clip(residual, -delta, delta)
        value = slope * (residual - 0.5 * slope)
        return value, slope, (slope == residual).astype(residual.dtype)

    return penalty


def _squares(predicted: Array, measured: Array) -> tuple[Array, Array, Array]:
    residual = predicted - measured
    return 0.5 * residual**2, residual, np.ones_like(residual)


def _raw_squares(predicted: Array, measured: Array) -> tuple[Array, Array, Array]:
    loss = np.exp(predicted)
    residual = loss - np.exp(measured)
    slope = residual * loss
    return 0.5 * residual**2, slope, loss * loss + slope


def _tilted(penalty: Penalty, above: float) -> Penalty:
    def tilted(predicted: Array, measured: Array) -> tuple[Array, Array, Array]:
        weight = np.where(predicted > measured, 1.0, above)
        value, slope, curvature = penalty(predicted, measured)
        return weight * value, weight * slope, weight * curvature

    return tilted
