"""The global search before every polish: a grid over (E, k, alpha, beta), A and B in closed form.

Variable projection: given the other four, the law is linear in A and B, and Gram products (one
matrix product for all replicates and all pairs of exponents) give their least squares.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis.laws import Array
from analysis.problem import Box, Problem

SEARCHED = 4096  # rows the grid looks at: it only has to find the basin
EXPONENTS = np.geomspace(0.05, 1.6, 14)
E_SHARES = (0.02, 0.3, 0.5, 0.65, 0.77, 0.86, 0.93, 0.98)
K_GRID = (0.4, 0.65, 1.0, 1.5, 2.5)


def locate(problem: Problem, box: Box, replicates: int) -> tuple[Array, Array]:
    """Best start of each (E, k) cell: points (cells, r, 6) and squared log error (cells, r).

    In single precision: it only has to find the basin.
    """
    stride = -(-len(problem.log_params) // SEARCHED)
    lowest = problem.log_loss.min(axis=1, keepdims=True)
    # In units of the lowest loss: single precision reaches neither far down nor far up.
    table = replace(problem, log_loss=problem.log_loss - lowest).single(stride)
    grid = _Grid(n=_powers(table.log_params), d=_powers(table.log_tokens), tied=box.tied)
    loss = np.exp(table.log_loss)
    weights = np.broadcast_to(table.weights, (replicates, loss.shape[1]))
    relative = weights / loss**2
    one = np.ones_like(loss[:, :1])
    floors = [share * one for share in E_SHARES]
    if box.E is not None:
        floors = [(box.E / np.exp(lowest)).astype(loss.dtype)]
    found = [
        _cell(grid, _linear(relative, loss - floor, k), floor, k)
        for k in (K_GRID if box.coupled else (1.0,))
        for floor in floors
    ]
    points = np.stack([start for start, _ in found]).astype(np.float64)
    points[:, :, 2] += lowest[:, 0]
    points[:, :, :2] += lowest / points[:, :, 5:]
    return points, np.stack([error for _, error in found])


def _powers(log_size: Array) -> Array:
    """Size^-exponent of every run at every exponent tried: (n, exponents)."""
    return np.exp(-np.outer(log_size, EXPONENTS.astype(log_size.dtype)))


@dataclass(frozen=True, kw_only=True)
class _Linear:
    """Loss less E, raised to 1/k: linear in A and B."""

    target: Array
    """(r, n) or (1, n)."""
    weight: Array
    """Such that squares of `target` weigh as squares of ln loss do: (r, n)."""


def _linear(relative: Array, reducible: Array, k: float) -> _Linear:
    reducible = np.maximum(reducible, 1e-6)
    if k == 1:
        return _Linear(target=reducible, weight=relative)
    target = np.exp(np.log(reducible) * (1 / k))
    return _Linear(target=target, weight=relative * (k * reducible / target) ** 2)


class _Grid:
    """N^-alpha and D^-beta of every run at every exponent tried, and their Gram products."""

    def __init__(self, *, n: Array, d: Array, tied: bool) -> None:
        self.n, self.d = n, d
        self.products = (n[:, :, None] * d[:, None, :]).reshape(len(n), -1)
        self.refused = np.where(np.eye(len(EXPONENTS)), 0, np.inf) if tied else 0.0
        self._last: tuple[Array, tuple[Array, Array, Array, Array]] | None = None

    def gram(self, weight: Array) -> tuple[Array, Array, Array, Array]:
        """Weighted sums of n·n, d·d, n·d: (r, a, 1), (r, 1, b), (r, a, b); 1 / determinant.

        Where k is 1 the weights are the same for every E: the last answer is kept.
        """
        if self._last is None or self._last[0] is not weight:
            shape = (len(weight), len(EXPONENTS), len(EXPONENTS))
            nd = (weight @ self.products).reshape(shape)
            nn, dd = (weight @ self.n**2)[:, :, None], (weight @ self.d**2)[:, None, :]
            both = nn * dd
            self._last = weight, (nn, dd, nd, 1 / np.maximum(both - nd**2, 1e-6 * both))
        return self._last[1]


def _cell(grid: _Grid, linear: _Linear, floor: Array, k: float) -> tuple[Array, Array]:
    """Least squares of the target on N^-alpha, D^-beta over the grid; the best of it."""
    nn, dd, nd, inverse = grid.gram(linear.weight)
    moment = linear.weight * linear.target
    nt, dt = (moment @ grid.n)[:, :, None], (moment @ grid.d)[:, None, :]
    tt = (moment * linear.target).sum(axis=1)
    a = np.maximum((nt * dd - dt * nd) * inverse, 1e-3 * nt / nn)
    b = np.maximum((dt * nn - nt * nd) * inverse, 1e-3 * dt / dd)
    error = a * (a * nn + 2 * (b * nd - nt)) + b * (b * dd - 2 * dt) + grid.refused
    flat = error.reshape(len(moment), -1)
    best = flat.argmin(axis=1)
    row = np.arange(len(moment))
    i, j = np.unravel_index(best, error.shape[1:])
    log_floor = np.broadcast_to(np.log(floor[:, 0]), len(moment))
    start = np.column_stack([
        np.log(a[row, i, j]), np.log(b[row, i, j]), log_floor,
        EXPONENTS[i], EXPONENTS[j], np.full(len(moment), k),
    ])  # fmt: skip
    return start, tt + flat[row, best]
