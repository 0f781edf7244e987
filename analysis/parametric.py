"""Approach 3: L(N, D) = E + (A / N^alpha + B / D^beta)^k, fitted to many resampled tables at once.

A grid over (E, k, alpha, beta), with A and B in closed form from Gram products, finds the basin;
a damped Newton method on (ln A, ln B, ln E, alpha, beta, k) with the exact Hessian finishes. ln N
and ln D are centered, which takes away the collinearity of A with alpha and of B with beta.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from analysis.laws import Array, LossLaw
from analysis.newton import MAX_ITERATIONS, Index, Minima, minimize
from analysis.objectives import Objective, Penalty
from analysis.results import Certificate, FitError

LETTERS = ("A", "B", "E", "alpha", "beta", "k")
"""Order of coordinates; A, B, E enter as logarithms."""
CHUNK = 2**14  # numbers an array may hold while replicates are polished: stays in cache
SEARCHED = 4096  # rows the grid looks at: it only has to find the basin
EXPONENTS = np.geomspace(0.05, 1.6, 14)
E_SHARES = (0.02, 0.3, 0.5, 0.65, 0.77, 0.86, 0.93, 0.98)
K_GRID = (0.4, 0.65, 1.0, 1.5, 2.5)
EXPONENT_BOUNDS = (1e-3, 3.0)
K_BOUNDS = (0.05, 20.0)
LEAD_ITERATIONS = 60
POLISHED = 4  # starts taken from the grid to the end, for one table
E_FLOOR = 1e-4  # of the lowest loss: an E held here is none


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The tables to fit: r replicates of n runs. A row vector (1, n) serves all replicates."""

    log_params: Array
    """ln N, centered: (n,)."""
    log_tokens: Array
    """ln D, centered: (n,)."""
    centers: tuple[float, float]
    """Means that were taken from ln N and ln D."""
    log_loss: Array
    """(r, n) or (1, n)."""
    weights: Array
    """Bootstrap counts: (r, n) or (1, n)."""

    @classmethod
    def of(cls, params: Array, tokens: Array, loss: Array) -> "Problem":
        """One table."""
        n, d = np.log(params), np.log(tokens)
        centers = float(n.mean()), float(d.mean())
        return cls(
            log_params=n - centers[0], log_tokens=d - centers[1], centers=centers,
            log_loss=np.log(loss)[None], weights=np.ones((1, len(n))),
        )  # fmt: skip

    def rows(self, which: Index) -> tuple[Array, Array]:
        """log loss and weights of these replicates."""
        loss = self.log_loss if len(self.log_loss) == 1 else self.log_loss[which]
        weights = self.weights if len(self.weights) == 1 else self.weights[which]
        return loss, weights


@dataclass(frozen=True, kw_only=True)
class Box:
    """What may vary, and how far."""

    coupled: bool = False
    """k is fitted; else it is 1."""
    E: float | None = None
    """An irreducible loss known beforehand; None fits it."""

    def bounds(self, lowest_loss: float) -> tuple[Array, Array]:
        """Lower and upper bounds of the coordinates."""
        low, high = (K_BOUNDS if self.coupled else (1.0, 1.0)), EXPONENT_BOUNDS
        floor, ceiling = (self.E, self.E) if self.E else (E_FLOOR * lowest_loss, lowest_loss)
        return (
            np.array([-50.0, -50.0, np.log(floor), high[0], high[0], low[0]]),
            np.array([50.0, 50.0, np.log(ceiling), high[1], high[1], low[1]]),
        )


FREE = Box()


def locate(problem: Problem, box: Box, replicates: int) -> tuple[Array, Array]:
    """Best start of each (E, k) cell: points (cells, r, 6) and squared log error (cells, r)."""
    stride = -(-len(problem.log_params) // SEARCHED)
    n, d = problem.log_params[::stride], problem.log_tokens[::stride]
    by_n = np.exp(-np.outer(n, EXPONENTS))  # (n, alphas)
    by_d = np.exp(-np.outer(d, EXPONENTS))  # (n, betas)
    both = (by_n[:, :, None] * by_d[:, None, :]).reshape(len(n), -1)
    loss = np.exp(problem.log_loss[:, ::stride])
    weights = np.broadcast_to(problem.weights[:, ::stride], (replicates, len(n)))
    shares = E_SHARES if box.E is None else (None,)
    cells = product(shares, K_GRID if box.coupled else (1.0,))
    found = []
    for share, k in cells:
        floor = np.full((1, 1), box.E) if share is None else share * loss.min(axis=1, keepdims=True)
        target = np.maximum(loss - floor, 1e-12) ** (1 / k)
        weight = weights * (k * target ** (k - 1) / loss) ** 2
        found.append(_cell(weight, weight * target, target, by_n, by_d, both, floor, k))
    return np.stack([start for start, _ in found]), np.stack([error for _, error in found])


def _cell(
    weight: Array, moment: Array, target: Array, by_n: Array, by_d: Array, both: Array,
    floor: Array, k: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Least squares of `target` on N^-alpha, D^-beta over the grid; the best of it."""
    nn, dd = (weight @ by_n**2)[:, :, None], (weight @ by_d**2)[:, None, :]
    nd = (weight @ both).reshape(len(weight), by_n.shape[1], by_d.shape[1])
    nt, dt = (moment @ by_n)[:, :, None], (moment @ by_d)[:, None, :]
    tt = (moment * target).sum(axis=1)[:, None, None]
    determinant = np.maximum(nn * dd - nd**2, 1e-12 * nn * dd)
    a = np.maximum((nt * dd - dt * nd) / determinant, 1e-3 * nt / nn)
    b = np.maximum((dt * nn - nt * nd) / determinant, 1e-3 * dt / dd)
    error = tt - 2 * (a * nt + b * dt) + a * a * nn + b * b * dd + 2 * a * b * nd
    flat = error.reshape(len(weight), -1)
    best = flat.argmin(axis=1)
    row = np.arange(len(weight))
    i, j = np.unravel_index(best, error.shape[1:])
    log_floor = np.broadcast_to(np.log(floor[:, 0]), len(weight))
    start = np.column_stack([
        np.log(a[row, i, j]), np.log(b[row, i, j]), log_floor,
        EXPONENTS[i], EXPONENTS[j], np.full(len(weight), k),
    ])  # fmt: skip
    return start, flat[row, best]


def evaluate(
    problem: Problem, penalty: Penalty, points: Array, which: Index
) -> tuple[Array, Array, Array]:
    """Objective (r,), gradient (r, 6) and exact Hessian (r, 6, 6) at `points` (r, 6)."""
    n, d = problem.log_params, problem.log_tokens
    measured, weights = problem.rows(which)
    ln_a, ln_b, ln_e, alpha, beta, k = (points[:, i, None] for i in range(6))
    by_n, by_d = ln_a - alpha * n, ln_b - beta * d
    reducible, share_n = _logaddexp(by_n, by_d)
    share_d = 1 - share_n
    predicted, share = _logaddexp(k * reducible, ln_e)  # share of loss that is reducible
    value, slope, curvature = penalty(predicted, measured)
    slope, curvature = weights * slope, weights * curvature
    # d predicted / d (ln A, ln B, ln E, k); alpha and beta follow through the features -n and -d.
    g_n, g_d, g_e, g_k = share * k * share_n, share * k * share_d, 1 - share, share * reducible
    mixed = slope * share * (1 - share)
    cross = slope * share * k * share_n * share_d
    w = {
        "nn": curvature * g_n * g_n + mixed * (k * share_n) ** 2 + cross,
        "dd": curvature * g_d * g_d + mixed * (k * share_d) ** 2 + cross,
        "nd": curvature * g_n * g_d + mixed * k * k * share_n * share_d - cross,
        "ee": curvature * g_e * g_e + mixed,
        "ne": curvature * g_n * g_e - mixed * k * share_n,
        "de": curvature * g_d * g_e - mixed * k * share_d,
        "kk": curvature * g_k * g_k + mixed * reducible**2,
        "nk": curvature * g_n * g_k + (mixed * k * reducible + slope * share) * share_n,
        "dk": curvature * g_d * g_k + (mixed * k * reducible + slope * share) * share_d,
        "ek": curvature * g_e * g_k - mixed * reducible,
    }
    return (
        (weights * value).sum(axis=1),
        _gradient(slope, g_n, g_d, g_e, g_k, n, d),
        _hessian(w, n, d),
    )


def _logaddexp(x: Array, y: Array) -> tuple[Array, Array]:
    """ln(e^x + e^y), and e^x's share of the sum, with one exponential."""
    small = np.exp(-np.abs(x - y))
    total = np.maximum(x, y) + np.log1p(small)
    larger = 1 / (1 + small)
    return total, np.where(x >= y, larger, small * larger)


def _gradient(
    slope: Array, g_n: Array, g_d: Array, g_e: Array, g_k: Array, n: Array, d: Array
) -> Array:
    by_n, by_d = slope * g_n, slope * g_d
    return np.column_stack([
        by_n.sum(axis=1), by_d.sum(axis=1), (slope * g_e).sum(axis=1),
        -(by_n @ n), -(by_d @ d), (slope * g_k).sum(axis=1),
    ])  # fmt: skip


def _hessian(w: dict[str, Array], n: Array, d: Array) -> Array:
    """Weighted moments of the features 1, -n, -d, one matrix product a pair of parts."""
    one = np.ones_like(n)
    powers_n, powers_d = np.column_stack([one, -n, n * n]), np.column_stack([one, -d, d * d])
    a, b, e, alpha, beta, k = range(6)
    h = np.empty((len(w["nn"]), 6, 6))
    h[:, a, a], h[:, a, alpha], h[:, alpha, alpha] = (w["nn"] @ powers_n).T
    h[:, b, b], h[:, b, beta], h[:, beta, beta] = (w["dd"] @ powers_d).T
    moments = np.column_stack([one, -n, -d, n * d])
    h[:, a, b], h[:, b, alpha], h[:, a, beta], h[:, alpha, beta] = (w["nd"] @ moments).T
    h[:, a, e], h[:, e, alpha] = (w["ne"] @ powers_n[:, :2]).T
    h[:, b, e], h[:, e, beta] = (w["de"] @ powers_d[:, :2]).T
    h[:, a, k], h[:, alpha, k] = (w["nk"] @ powers_n[:, :2]).T
    h[:, b, k], h[:, beta, k] = (w["dk"] @ powers_d[:, :2]).T
    h[:, e, e], h[:, e, k], h[:, k, k] = (w[name].sum(axis=1) for name in ("ee", "ek", "kk"))
    lower = np.tril_indices(6, -1)
    h[:, lower[0], lower[1]] = h[:, lower[1], lower[0]]
    return h


def polish(problem: Problem, objective: Objective, box: Box, starts: Array) -> Minima:
    """Minimize every replicate from its start (r, 6), stage by stage."""
    lower, upper = box.bounds(float(np.exp(problem.log_loss.min())))
    points = starts
    for penalty in objective.stages[:-1]:
        points = minimize(
            partial(evaluate, problem, penalty),
            points,
            lower,
            upper,
            tolerance=objective.lead_tolerance,
            iterations=LEAD_ITERATIONS,
        ).points
    return minimize(partial(evaluate, problem, objective.stages[-1]), points, lower, upper)


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
    predicted, jacobian = _prediction(problem, point)
    total = minima.values[best] * objective.scale
    return Solution(
        law=law(point, problem.centers),
        point=point,
        value=float(total / problem.weights.sum() if objective.mean else total),
        predicted=predicted,
        jacobian=jacobian[:, free],
        certificate=_certificate(minima, best, box),
    )


def solve_all(problem: Problem, objective: Objective, box: Box = FREE) -> Array:
    """The optimum of every replicate, each from its own global search: coordinates (r, 6)."""
    replicates = max(len(problem.log_loss), len(problem.weights))
    starts, errors = locate(problem, box, replicates)
    best = starts[errors.argmin(axis=0), np.arange(replicates)]
    stages = objective.stages[: len(objective.stages) - objective.for_draws]
    return polish(problem, replace(objective, stages=stages), box, best).points


def _prediction(problem: Problem, point: Array) -> tuple[Array, Array]:
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
    given = {name for name, held in (("k", not box.coupled), ("E", box.E is not None)) if held}
    return Certificate(
        gradient=float(np.abs(minima.gradients[best]).max()),
        condition=float(eigenvalues[-1] / eigenvalues[0]) if eigenvalues[0] > 0 else float("inf"),
        starts=len(minima.values),
        reached=float(np.mean(minima.values <= lowest + 1e-6 * abs(lowest) + 1e-15)),
        positive_definite=bool(eigenvalues[0] > 0),
        bounds=tuple(x for x, h in zip(LETTERS, held, strict=True) if h and x not in given),
    )
