"""The way to the minimum of a narrow Huber penalty, from inside: a primal-dual interior point path.

Newton's method crawls from kink to kink where a penalty is nearly absolute. Here each run's slope u
stays strictly within the penalty's [-delta, delta] and its residual is u + p - q, with p, q > 0,
p (delta - u) = mu and q (delta + u) = mu for a mu that shrinks: some fifteen steps, whatever the
width (Portnoy and Koenker, Statistical Science 12, 1997, for absolute deviations of linear models).
"""

from dataclasses import dataclass

import numpy as np

from analysis.derivatives import BLOCK, along, assembled, slopes
from analysis.laws import Array
from analysis.newton import Flags, Index, held_face, newton_step
from analysis.problem import Box, Problem

STEPS = 30
NARROWED = 0.2  # what each step wants left of mu
WITHIN = 0.95  # of the way to where a slope or a residual would leave its side
CLOSE = 1e-2  # mu, in squares of the width: the kinks that hold the minimum are told apart
SETTLED = 1e-3  # step, in logarithms and exponents
DAMPING = 1e-9
OPENING = 0.9, 0.3  # how near to their bounds slopes begin, and p and q to zero


def approach(
    problem: Problem, delta: float, box: Box, start: Array, lower: Array, upper: Array
) -> Array:
    """From `start` (r, 6) to near the minimum of Huber(delta), within [lower, upper] (r, 6).

    Not proven to arrive: whoever calls looks whether the answer (r, 6) is lower than the start.
    """
    points = np.clip(start, lower, upper)
    path = _Path(problem=problem, delta=delta, box=box, lower=lower, upper=upper)
    runs = len(problem.log_params)
    state = np.zeros((3, len(points), runs), dtype=problem.log_params.dtype)
    active, size = np.arange(len(points)), max(BLOCK // runs, 1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for step in range(STEPS):
            blocks = [active[first : first + size] for first in range(0, len(active), size)]
            going = [path.advance(points, state, which, opening=step == 0) for which in blocks]
            active = active[np.concatenate(going)]
            if not len(active):
                break
    return points


@dataclass(frozen=True, kw_only=True)
class _Path:
    """What stays the same along the way."""

    problem: Problem
    delta: float
    box: Box
    lower: Array
    upper: Array

    def advance(self, points: Array, state: Array, which: Index, *, opening: bool) -> Flags:
        """One step of replicates `which` (m,), in place; whether each has further to go."""
        problem, delta, spread = self.problem, self.delta, self.box.spread
        at, (measured, weights) = points[which], problem.rows(which)
        whole = at @ spread
        g = slopes(problem, whole, coupled=self.box.coupled)
        residual = g.predicted - measured
        slope, above, below = _opening(residual, weights, delta) if opening else state[:, which]
        over, under = 1 / (delta - slope), 1 / (delta + slope)
        total = 2 * weights.sum(axis=1, keepdims=True)
        mu = (weights * (above / over + below / under)).sum(axis=1, keepdims=True) / total
        aim = NARROWED * mu
        by_above, by_below = above * over, below * under
        curvature = 1 / (1 + by_above + by_below)
        moved = curvature * (residual - slope - aim * (over - under))
        gradient, hessian = assembled(
            problem, whole, g, weights * (slope + moved), weights * curvature
        )
        lower, upper = self.lower[which], self.upper[which]
        gradient, hessian, _ = held_face(
            at, gradient @ spread.T, spread @ hessian @ spread.T, lower, upper
        )
        step = newton_step(gradient, hessian, np.full(len(at), DAMPING))
        step = np.clip(at + step, lower, upper) - at
        live = weights > 0
        moved = live * (moved + curvature * along(problem, g, step @ spread))
        d_above = live * (aim * over - above + by_above * moved)
        d_below = live * (aim * under - below - by_below * moved)
        inside = _share(np.maximum(moved * over, -moved * under))
        ahead = _share(np.maximum(-d_above / above, -d_below / below))
        points[which] = at + ahead * step
        state[:, which] = slope + inside * moved, above + ahead * d_above, below + ahead * d_below
        far = (mu[:, 0] > CLOSE * delta**2) | (np.abs(step).max(axis=1) > SETTLED)
        return far & np.isfinite(step).all(axis=1)


def _opening(residual: Array, weights: Array, delta: float) -> tuple[Array, Array, Array]:
    """u, p, q (r, n) well inside, from residuals: p (delta - u) is much the same for every run."""
    size = np.abs(residual)
    mean = (weights * size).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
    typical = mean + delta
    near, apart = OPENING
    slope = near * delta * residual / (size + typical)
    excess = residual - slope
    return slope, np.maximum(excess, 0) + apart * typical, np.maximum(-excess, 0) + apart * typical


def _share(speed: Array) -> Array:
    """How much of a step (r, n) may be taken, `speed` being its part of the way out: (r, 1)."""
    fastest = speed.max(axis=1, keepdims=True)
    return np.minimum(1, WITHIN / np.maximum(fastest, 1e-30))
