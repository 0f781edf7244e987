"""Approach 3: L(N, D) = E + (A / N^alpha + B / D^beta)^k, fitted to many resampled tables at once.

`basins` finds where to start; a damped Newton method on (ln A, ln B, ln E, alpha, beta, k) with
the exact Hessian finishes. ln N and ln D are centered, which takes away the collinearity of A with
alpha and of B with beta.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.basins import locate
from analysis.laws import Array, LossLaw
from analysis.newton import MAX_ITERATIONS, Index, Minima, minimize
from analysis.objectives import Objective, Penalty
from analysis.problem import FREE, LETTERS, Box, Problem
from analysis.results import Certificate, FitError

LEAD_ITERATIONS = 60
POLISHED = 4  # starts taken from the grid to the end, for one table


def evaluate(
    problem: Problem, penalty: Penalty, points: Array, which: Index, *, coupled: bool
) -> tuple[Array, Array, Array]:
    """Objective (r,), gradient (r, 6) and exact Hessian (r, 6, 6) at `points` (r, 6).

    Unless `coupled`, k is held and its derivatives are left at zero: a third of the work.
    """
    n, d = problem.log_params, problem.log_tokens
    measured, weights = problem.rows(which)
    ln_a, ln_b, ln_e, alpha, beta, k = (points[:, i, None] for i in range(6))
    reducible, share_n = _logaddexp(ln_a - alpha * n, ln_b - beta * d)
    predicted, share = _logaddexp(k * reducible, ln_e)  # share of loss that is reducible
    value, slope, curvature = penalty(predicted, measured)
    slope, curvature = weights * slope, weights * curvature
    # d predicted / d (ln A, ln B, ln E); alpha and beta follow through the features -n and -d.
    k_n, k_d = k * share_n, k * (1 - share_n)
    slopes = {"n": share * k_n, "d": share * k_d, "e": 1 - share}
    w = _curvatures(slopes, slope, curvature, share, k, k_n, k_d)
    if coupled:
        slopes["k"] = share * reducible
        w |= _couplings(slopes, slope, curvature, share, k, k_n, k_d, reducible)
    return (weights * value).sum(axis=1), _gradient(slopes, slope, n, d), _hessian(w, n, d)


def _curvatures(
    g: dict[str, Array], slope: Array, curvature: Array, share: Array, k: Array, k_n: Array,
    k_d: Array,
) -> dict[str, Array]:  # fmt: skip
    """Second derivatives by (ln A, ln B, ln E), run by run: (r, n) each."""
    mixed = slope * share * g["e"]
    cross = slope * g["n"] * k_d / k
    return {
        "nn": curvature * g["n"] * g["n"] + mixed * k_n * k_n + cross,
        "dd": curvature * g["d"] * g["d"] + mixed * k_d * k_d + cross,
        "nd": curvature * g["n"] * g["d"] + mixed * k_n * k_d - cross,
        "ee": curvature * g["e"] * g["e"] + mixed,
        "ne": curvature * g["n"] * g["e"] - mixed * k_n,
        "de": curvature * g["d"] * g["e"] - mixed * k_d,
    }


def _couplings(
    g: dict[str, Array], slope: Array, curvature: Array, share: Array, k: Array, k_n: Array,
    k_d: Array, reducible: Array,
) -> dict[str, Array]:  # fmt: skip
    """Second derivatives by k and each other one, run by run: (r, n) each."""
    mixed = slope * share * g["e"]
    both = mixed * reducible + slope * share / k
    return {
        "kk": curvature * g["k"] * g["k"] + mixed * reducible**2,
        "nk": curvature * g["n"] * g["k"] + both * k_n,
        "dk": curvature * g["d"] * g["k"] + both * k_d,
        "ek": curvature * g["e"] * g["k"] - mixed * reducible,
    }


def _logaddexp(x: Array, y: Array) -> tuple[Array, Array]:
    """ln(e^x + e^y), and e^x's share of the sum, with one exponential."""
    small = np.exp(-np.abs(x - y))
    total = np.maximum(x, y) + np.log1p(small)
    larger = 1 / (1 + small)
    return total, np.where(x >= y, larger, small * larger)


def _gradient(g: dict[str, Array], slope: Array, n: Array, d: Array) -> Array:
    by_n, by_d = slope * g["n"], slope * g["d"]
    by_k = (slope * g["k"]).sum(axis=1) if "k" in g else np.zeros(len(slope))
    return np.column_stack([
        by_n.sum(axis=1), by_d.sum(axis=1), (slope * g["e"]).sum(axis=1),
        -(by_n @ n), -(by_d @ d), by_k,
    ])  # fmt: skip


def _hessian(w: dict[str, Array], n: Array, d: Array) -> Array:
    """Weighted moments of the features 1, -n, -d, one matrix product a pair of parts."""
    one = np.ones_like(n)
    powers_n, powers_d = np.column_stack([one, -n, n * n]), np.column_stack([one, -d, d * d])
    a, b, e, alpha, beta, k = range(6)
    h = np.zeros((len(w["nn"]), 6, 6))
    h[:, a, a], h[:, a, alpha], h[:, alpha, alpha] = (w["nn"] @ powers_n).T
    h[:, b, b], h[:, b, beta], h[:, beta, beta] = (w["dd"] @ powers_d).T
    moments = np.column_stack([one, -n, -d, n * d])
    h[:, a, b], h[:, b, alpha], h[:, a, beta], h[:, alpha, beta] = (w["nd"] @ moments).T
    h[:, a, e], h[:, e, alpha] = (w["ne"] @ powers_n[:, :2]).T
    h[:, b, e], h[:, e, beta] = (w["de"] @ powers_d[:, :2]).T
    h[:, e, e] = w["ee"].sum(axis=1)
    if "kk" in w:
        h[:, a, k], h[:, alpha, k] = (w["nk"] @ powers_n[:, :2]).T
        h[:, b, k], h[:, beta, k] = (w["dk"] @ powers_d[:, :2]).T
        h[:, e, k], h[:, k, k] = (w[name].sum(axis=1) for name in ("ek", "kk"))
    lower = np.tril_indices(6, -1)
    h[:, lower[0], lower[1]] = h[:, lower[1], lower[0]]
    return h


def polish(problem: Problem, objective: Objective, box: Box, starts: Array) -> Minima:
    """Minimize every replicate from its start (r, 6), stage by stage."""
    lower, upper = box.bounds(float(np.exp(problem.log_loss.min())))
    spread, points = box.spread, starts

    def fitted(penalty: Penalty, x: Array, which: Index) -> tuple[Array, Array, Array]:
        value, gradient, hessian = evaluate(
            problem, penalty, x @ spread, which, coupled=box.coupled
        )
        return value, gradient @ spread.T, spread @ hessian @ spread.T

    for penalty in objective.stages[:-1]:
        points = minimize(
            partial(fitted, penalty), points, lower, upper,
            tolerance=objective.lead_tolerance, iterations=LEAD_ITERATIONS,
        ).points  # fmt: skip
    found = minimize(partial(fitted, objective.stages[-1]), points, lower, upper)
    return replace(found, points=found.points @ spread)


def law(points: Array, centers: tuple[float, float]) -> LossLaw:
    """The law at coordinates (6,), or at (r, 6): letters with r values each."""
    ln_a, ln_b, ln_e, alpha, beta, k = points.T
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
    best = int(minima.values.argmin())
    if not minima.converged[best]:
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
        certificate=_certificate(minima, best, box),
    )


def solve_all(problem: Problem, objective: Objective, box: Box = FREE) -> Array:
    """The optimum of every replicate, each from its own global search: coordinates (r, 6)."""
    replicates = max(len(problem.log_loss), len(problem.weights))
    starts, errors = locate(problem, box, replicates)
    best = starts[errors.argmin(axis=0), np.arange(replicates)]
    stages = objective.stages[: len(objective.stages) - objective.for_draws]
    return polish(problem, replace(objective, stages=stages), box, best).points


def logarithmic_gradient(problem: Problem, point: Array) -> tuple[Array, Array]:
    """ln of the predicted loss (n,) and its derivative by all coordinates (n, 6)."""
    ln_a, ln_b, ln_e, alpha, beta, k = point
    n, d = problem.log_params, problem.log_tokens
    reducible, share_n = _logaddexp(ln_a - alpha * n, ln_b - beta * d)
    predicted, share = _logaddexp(k * reducible, np.full_like(n, ln_e))
    by_n, by_d = share * k * share_n, share * k * (1 - share_n)
    columns = [by_n, by_d, 1 - share, -n * by_n, -d * by_d, share * reducible]
    return predicted, np.column_stack(columns)


def _certificate(minima: Minima, best: int, box: Box) -> Certificate:
    lowest, held = minima.values[best], minima.held[best]
    eigenvalues = np.linalg.eigvalsh(minima.hessians[best][np.ix_(~held, ~held)])
    return Certificate(
        gradient=float(np.abs(minima.gradients[best]).max()),
        condition=float(eigenvalues[-1] / eigenvalues[0]) if eigenvalues[0] > 0 else float("inf"),
        starts=len(minima.values),
        reached=float(np.mean(minima.values <= lowest + 1e-6 * abs(lowest) + 1e-15)),
        positive_definite=bool(eigenvalues[0] > 0),
        bounds=tuple(x for x, h in zip(LETTERS, held, strict=True) if h and x not in box.given),
    )
