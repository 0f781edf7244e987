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

LEAD = (1e-1, 1e-2)
"""Widths of the Huber penalties that lead to a narrow one."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A penalty, the easier ones that lead to it, and what its minimum is called."""

    name: str
    """In words, as it is printed beside the result."""
    stages: tuple[Penalty, ...]
    """Minimized one after the other, each from the last one's answer; the last is the objective."""
    lead_tolerance: float = 1e-2
    """Step at which a stage before the last is near enough to its minimum."""
    for_draws: int = 0
    """Stages left out, counted from the end, when bootstrap draws are fitted."""
    scale: float = 1.0
    """Times the sum of penalties: the figure that is reported."""
    mean: bool = False
    """Whether the reported figure is a mean over runs, not a sum."""


def huber(delta: float = 1e-3) -> Objective:
    """Sum of Huber penalties on log loss: Hoffmann et al. (arXiv 2203.15556), appendix D.3.

    A sum, not a mean: the mean shrinks gradients by n, and optimizers stop early.
    """
    lead = tuple(_huber(width) for width in LEAD if width > 2 * delta)
    name = f"sum of Huber({delta:g}) on log loss"
    return Objective(name=name, stages=(*lead, _huber(delta)))


def least_absolute(delta: float = 1e-7) -> Objective:
    """Sum of absolute deviations of log loss, as Huber penalties of shrinking width."""
    widths = [10.0**-power for power in range(1, 8) if 10.0**-power > delta]
    return Objective(
        name="sum of absolute deviations of log loss",
        stages=(*(_huber(width) for width in widths), _huber(delta)),
        for_draws=2,  # Huber(1e-5) is absolute enough beside any table's noise
        lead_tolerance=1e-4,  # the corner is narrow: looser stages left the last one crawling
        scale=1 / delta,
    )


def log_squares() -> Objective:
    """Mean squared error of log loss."""
    return Objective(name="mean squared error of log loss", stages=(_squares,), scale=2, mean=True)


def raw_squares() -> Objective:
    """Mean squared error of loss."""
    return Objective(
        name="mean squared error of loss", stages=(_squares, _raw_squares), scale=2, mean=True
    )


def lower_envelope(delta: float = 1e-3, above: float = 0.1) -> Objective:
    """Huber on log loss, but a run above the law counts only `above` as much as one below it.

    For tables of runs that were not all tuned: the law is to follow the best of them.
    """
    name = f"sum of Huber({delta:g}) on log loss, runs above the law at {above:g}"
    lead = tuple(_tilted(_huber(width), above) for width in LEAD if width > 2 * delta)
    return Objective(name=name, stages=(*lead, _tilted(_huber(delta), above)))


def _huber(delta: float) -> Penalty:
    def penalty(predicted: Array, measured: Array) -> tuple[Array, Array, Array]:
        residual = predicted - measured
        slope = np.clip(residual, -delta, delta)
        value = slope * (residual - 0.5 * slope)
        return value, slope, (slope == residual).astype(np.float64)

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
