"""Damped Newton on many small problems at once, inside a box. Knows nothing of laws."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from analysis.laws import Array

Index: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Evaluate: TypeAlias = Callable[[Array, Index], tuple[Array, Array, Array]]
"""(points (r, p), which problems (r,)) → value (r,), gradient (r, p), Hessian (r, p, p)."""

MAX_ITERATIONS = 1000  # a few noisy runs under a narrow Huber take hundreds, once in 300 times
STEP_TOLERANCE = 1e-8  # a Newton step this small squares to below rounding
DAMPING = 1e-2  # where nothing is known of the start
STALLED = 1e9  # damping at which no step can lower the value any more: rounding is reached
LONGEST_STEP = 1.5  # in the coordinates of the caller, which are logarithms and exponents


@dataclass(frozen=True, kw_only=True)
class Minima:
    """Where `minimize` arrived, problem by problem."""

    points: Array
    """(r, p)."""
    values: Array
    """(r,)."""
    gradients: Array
    """(r, p), zero where a bound holds."""
    hessians: Array
    """(r, p, p), rows and columns of held coordinates those of the identity."""
    held: Flags
    """(r, p): a bound holds this coordinate."""
    converged: Flags
    """(r,)."""

    def replaced(self, which: Index, others: "Minima") -> "Minima":
        """`others` in place of problems `which`."""
        whole = {one.name: getattr(self, one.name).copy() for one in fields(self)}
        for name, values in whole.items():
            values[which] = getattr(others, name)
        return Minima(**whole)

    def best(self) -> int | None:
        """The lowest that converged, of several starts on one table.

        None where none did, or where one that did not went lower.
        """
        values = np.where(np.isfinite(self.values), self.values, np.inf)
        near = values <= values.min() + 1e-6 * abs(values.min()) + 1e-15
        arrived = self.converged & near & np.isfinite(values)
        return int(np.where(arrived, values, np.inf).argmin()) if arrived.any() else None


def coordinates(points: Array) -> Array:
    """Points (..., p) one coordinate after the other, (p, ...), each in one piece.

    Of numbers that lie apart numpy 1.26 takes exponentials now by one routine, now by another,
    and their last digits differ.
    """
    return np.moveaxis(points, -1, 0).copy()


def minimize(
    evaluate: Evaluate, start: Array, lower: Array, upper: Array,
    *, tolerance: float = STEP_TOLERANCE, iterations: int = MAX_ITERATIONS,
    damping: float = DAMPING,
) -> Minima:  # fmt: skip
    """Minimize r problems of p coordinates from `start` (r, p) within [lower, upper] (r, p).

    Levenberg damping a problem; finished problems leave the active set.
    """
    points = np.clip(start, lower, upper)
    at = _Standing(points, *evaluate(points, np.arange(len(points))), damping)
    converged = np.zeros(len(points), dtype=bool)
    active = np.arange(len(points))
    for _ in range(iterations):
        if not len(active):
            break
        gradient, hessian, _ = held_face(
            at.points[active], at.gradients[active], at.hessians[active],
            lower[active], upper[active],
        )  # fmt: skip
        step = newton_step(gradient, hessian, at.damping[active])
        tried = np.clip(at.points[active] + step, lower[active], upper[active])
        small = np.abs(step).max(axis=1) < tolerance
        done = at.move(active, tried, evaluate(tried, active), small)
        converged[active[done]] = True
        active = active[~done]
    gradient, hessian, held = held_face(at.points, at.gradients, at.hessians, lower, upper)
    return Minima(
        points=at.points, values=at.values, gradients=gradient, hessians=hessian, held=held,
        converged=converged,
    )  # fmt: skip


class _Standing:
    """Where every problem stands; moved in place, for speed."""

    def __init__(
        self, points: Array, values: Array, gradients: Array, hessians: Array, damping: float
    ) -> None:
        self.points, self.values = points, values
        self.gradients, self.hessians = gradients, hessians
        self.damping = np.full(len(points), damping)

    def move(
        self, active: Index, tried: Array, found: tuple[Array, Array, Array], small: Flags
    ) -> Flags:
        """Take the steps that lower the value, adapt the damping, tell who has arrived.

        `active` are the problems that tried, `found` what `evaluate` says of `tried`, and `small`
        whose step was below the tolerance. All of one length; so is the answer.
        """
        value, gradient, hessian = found
        better = value <= self.values[active]
        won = active[better]
        self.points[won], self.values[won] = tried[better], value[better]
        self.gradients[won], self.hessians[won] = gradient[better], hessian[better]
        damping = self.damping[active]
        undamped = damping < 1e-1  # a small step under heavy damping says nothing
        damping = np.where(better, np.maximum(damping * 0.2, 1e-12), damping * 10)
        self.damping[active] = damping
        return (small & undamped) | (damping > STALLED)


def held_face(
    points: Array, gradients: Array, hessians: Array, lower: Array, upper: Array
) -> tuple[Array, Array, Flags]:
    """Gradient and Hessian on the face of the box that the gradient presses against."""
    held = ((points <= lower) & (gradients >= 0)) | ((points >= upper) & (gradients <= 0))
    held |= lower == upper
    if not held.any():
        return gradients, hessians, held
    free = ~held
    both = free[:, :, None] & free[:, None, :]
    eye = np.eye(points.shape[1])
    return gradients * free, np.where(both, hessians, eye), held


def newton_step(gradient: Array, hessian: Array, damping: Array) -> Array:
    """The step of damped Newton from gradients (r, k) and Hessians (r, k, k): (r, k)."""
    diagonal = np.abs(np.diagonal(hessian, axis1=1, axis2=2))
    diagonal = np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    damped, every = hessian.copy(), np.arange(gradient.shape[1])
    damped[:, every, every] += damping[:, None] * diagonal
    step = -np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
    uphill = (step * gradient).sum(axis=1) > 0
    step[uphill] *= -1  # an indefinite Hessian: its way down is the other way
    longest = np.abs(step).max(axis=1, keepdims=True)
    return step * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
