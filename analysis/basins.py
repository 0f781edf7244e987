"""The global search before every polish: a grid over (E, k, alpha, beta), A and B in closed form.

Variable projection: given the other four, the law is linear in A and B, and Gram products (one
matrix product for all replicates and all pairs of exponents) give their least squares.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from analysis.laws import Array
from analysis.problem import Box, Problem

SEARCHED = 4096  # rows the grid looks at: it only has to find the basin
EXPONENTS = np.geomspace(0.05, 1.6, 14)
E_SHARES = (0.02, 0.3, 0.5, 0.65, 0.77, 0.86, 0.93, 0.98)
K_GRID = (0.4, 0.65, 1.0, 1.5, 2.5)


def locate(problem: Problem, box: Box, replicates: int) -> tuple[Array, Array]:
    """Best start of each (E, k) cell: points (cells, r, 6) and squared log error (cells, r)."""
    stride = -(-len(problem.log_params) // SEARCHED)
    n, d = problem.log_params[::stride], problem.log_tokens[::stride]
    grid = _Grid(n=np.exp(-np.outer(n, EXPONENTS)), d=np.exp(-np.outer(d, EXPONENTS)))
    loss = np.exp(problem.log_loss[:, ::stride])
    weights = np.broadcast_to(problem.weights[:, ::stride], (replicates, len(n)))
    shares = E_SHARES if box.E is None else (None,)
    cells = product(shares, K_GRID if box.coupled else (1.0,))
    found = []
    for share, k in cells:
        floor = np.full((1, 1), box.E) if share is None else share * loss.min(axis=1, keepdims=True)
        target = np.maximum(loss - floor, 1e-12) ** (1 / k)
        weight = weights * (k * target ** (k - 1) / loss) ** 2
        found.append(_cell(grid, weight, target, floor, k, tied=box.tied))
    return np.stack([start for start, _ in found]), np.stack([error for _, error in found])


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """N^-alpha and D^-beta of every run at every exponent tried: (n, exponents)."""

    n: Array
    d: Array

    @cached_property
    def products(self) -> Array:
        """Of every pair: (n, exponents²)."""
        return (self.n[:, :, None] * self.d[:, None, :]).reshape(len(self.n), -1)


def _cell(
    grid: _Grid, weight: Array, target: Array, floor: Array, k: float, *, tied: bool
) -> tuple[Array, Array]:
    """Least squares of `target` (r, n) on N^-alpha, D^-beta over the grid; the best of it."""
    moment = weight * target
    nn, dd = (weight @ grid.n**2)[:, :, None], (weight @ grid.d**2)[:, None, :]
    nd = (weight @ grid.products).reshape(len(weight), len(EXPONENTS), len(EXPONENTS))
    nt, dt = (moment @ grid.n)[:, :, None], (moment @ grid.d)[:, None, :]
    tt = (moment * target).sum(axis=1)[:, None, None]
    determinant = np.maximum(nn * dd - nd**2, 1e-12 * nn * dd)
    a = np.maximum((nt * dd - dt * nd) / determinant, 1e-3 * nt / nn)
    b = np.maximum((dt * nn - nt * nd) / determinant, 1e-3 * dt / dd)
    error = tt - 2 * (a * nt + b * dt) + a * a * nn + b * b * dd + 2 * a * b * nd
    if tied:
        error = np.where(np.eye(len(EXPONENTS), dtype=bool), error, np.inf)
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
