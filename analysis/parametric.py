"""Approach 3: L(N, D) = E + (A / N^alpha + B / D^beta)^k, fitted to many resampled tables at once.

`basins` finds where to start; a damped Newton method on (ln A, ln B, ln E, alpha, beta, k) with
the exact Hessian finishes. ln N and ln D are centered, which takes away the collinearity of A with
alpha and of B with beta.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.basins import locate
from analysis.derivatives import evaluate, slopes
from analysis.interior import approach
from analysis.laws import Array, LossLaw
from analysis.newton import MAX_ITERATIONS, Evaluate, Index, Minima, coordinates, minimize
from analysis.objectives import CRAWLS, Interior, Objective, Penalty
from analysis.problem import FREE, LETTERS, Box, Problem
from analysis.results import Certificate, FitError

LEAD_ITERATIONS = 60
NEAR_DAMPING = 1e-9  # where the minimum is near, damping only delays
NEWTON_AFTER_PATH = (*8 * [CRAWLS], MAX_ITERATIONS)  # whoever still crawls goes by it again
POLISHED = 4  # starts taken from the grid to the end, for one table


def polish(problem: Problem, objective: Objective, box: Box, starts: Array) -> Minima:
    """Minimize every replicate from its start (r, 6), stage by stage.

    Single precision leads to the neighborhood of the minimum, double precision ends it.
    """
    bounds = box.bounds(np.broadcast_to(np.exp(problem.log_loss.min(axis=1)), len(starts)))
    spread, points = box.spread, starts

    def fitted(
        table: Problem, penalty: Penalty, x: Array, which: Index
    ) -> tuple[Array, Array, Array]:
        value, gradient, hessian = evaluate(table, penalty, x @ spread, which, coupled=box.coupled)
        return value, gradient @ spread.T, spread @ hessian @ spread.T

    rough = problem.single()
    for stage in objective.leads:
        points = minimize(
            partial(fitted, rough if stage.single else problem, stage.penalty), points, *bounds,
            tolerance=stage.tolerance, iterations=LEAD_ITERATIONS,
        ).points  # fmt: skip
    final = partial(fitted, problem, objective.penalty)
    found = _ended(problem, final, objective.interior, box, points, bounds)
    return replace(found, points=found.points @ spread)


def _ended(
    problem: Problem, final: Evaluate, interior: Interior | None, box: Box, points: Array,
    bounds: tuple[Array, Array],
) -> Minima:  # fmt: skip
    """The end of the way, from `points` (r, 6) near the minimum of `final`."""
    after = MAX_ITERATIONS if interior is None else interior.after
    found = minimize(final, points, *bounds, damping=NEAR_DAMPING, iterations=after)
    if interior is None:
        return found
    for steps in NEWTON_AFTER_PATH:
        late = np.flatnonzero(~found.converged)
        if not len(late):
            break
        start, limits = found.points[late], (bounds[0][late], bounds[1][late])
        near = approach(problem.replicates(late), interior.width, box, start, *limits)
        better = final(near, late)[0] < found.values[late]
        start[better] = near[better]
        there = partial(_of_some, final, late)
        rest = minimize(there, start, *limits, damping=NEAR_DAMPING, iterations=steps)
        found = found.replaced(late, rest)
    return found


def _of_some(
    evaluate: Evaluate, some: Index, points: Array, which: Index
) -> tuple[Array, Array, Array]:
    """`evaluate` where problems are counted among `some` alone."""
    return evaluate(points, some[which])


def law(points: Array, centers: tuple[float, float]) -> LossLaw:
    """The law at coordinates (6,), or at (r, 6): letters with r values each."""
    ln_a, ln_b, ln_e, alpha, beta, k = coordinates(points)
    return LossLaw(
        E=np.exp(ln_e), A=np.exp(ln_a + alpha * centers[0]), B=np.exp(ln_b + beta * centers[1]),
        alpha=alpha, beta=beta, k=k,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The optimum of one table."""

    law: LossLaw
    point: Array
    """Its coordinates (6,), centered."""
    value: float
    """The objective as it is reported."""
    predicted: Array
    """ln of the predicted loss: (n,)."""
    jacobian: Array
    """Derivative of `predicted` by the coordinates no bound holds: (n, p)."""
    certificate: Certificate


def solve(problem: Problem, objective: Objective, box: Box = FREE) -> Solution:
    """The optimum of one table: a grid, then the most promising basins polished.

    Raises:
        FitError: no start converged.
    """
    starts, errors = (found[:, 0] for found in locate(problem, box, 1))
    minima = polish(problem, objective, box, starts[np.argsort(errors)[:POLISHED]])
    best = minima.best()
    if best is None:
        raise FitError(f"{objective.name}: {MAX_ITERATIONS} Newton steps were not enough")
    point, free = minima.points[best], ~minima.held[best]
    predicted, jacobian = logarithmic_gradient(problem, point)
    total = minima.values[best] * objective.scale
    return Solution(
        law=law(point, problem.centers),
        point=point,
        value=float(total / problem.weights.sum() if objective.mean else total),
        predicted=predicted,
        jacobian=(jacobian @ box.spread.T)[:, free],
        certificate=Certificate.of(minima, best, LETTERS, given=box.given),
    )


def solve_all(problem: Problem, objective: Objective, box: Box = FREE) -> Array:
    """The optimum of every replicate, each from its own global search: coordinates (r, 6)."""
    replicates = max(len(problem.log_loss), len(problem.weights))
    starts, errors = locate(problem, box, replicates)
    best = starts[errors.argmin(axis=0), np.arange(replicates)]
    return polish(problem, objective.for_draws or objective, box, best).points


def logarithmic_gradient(problem: Problem, point: Array) -> tuple[Array, Array]:
    """ln of the predicted loss (n,) and its derivative by all coordinates (n, 6)."""
    g = slopes(problem, point[None], coupled=True)
    p, q, e, r = (one[0] for one in (g.p, g.q, g.e, g.r) if one is not None)
    n, d = problem.log_params, problem.log_tokens
    return g.predicted[0], np.column_stack([p, q, e, -n * p, -d * q, r])
