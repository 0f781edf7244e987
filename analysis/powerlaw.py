"""Power laws: in log space, in raw space for comparison, with a floor; L(N), L(D) and L(C)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from analysis.cells import Cells
from analysis.laws import Array, Value


def log_fit(x: Array, y: Array) -> tuple[Array, Array]:
    """Least squares of ln y on ln x. `x` (n,), `y` (..., n) → coefficient and exponent (...)."""
    log_x = np.log(x)
    centered = log_x - log_x.mean()
    log_y = np.log(y)
    exponent = log_y @ centered / (centered @ centered)
    return np.exp(log_y.mean(axis=-1) - exponent * log_x.mean()), exponent


def raw_fit(x: Array, y: Array) -> tuple[Array, Array]:
    """Least squares of y on c · x^p in raw space: the largest x decide alone.

    `x` (n,), `y` (..., n) → coefficient and exponent (...). Given p, c is linear; p is found by a
    grid that closes in on the best of its points.
    """
    log_x = np.log(x) - np.log(x).mean()
    exponent = np.asarray(log_fit(x, y)[1])
    for width in 0.5 * 0.1 ** np.arange(12):
        tried = exponent[..., None] + width * np.linspace(-1, 1, 41)
        power = np.exp(tried[..., None] * log_x)  # (..., grid, n)
        gain = np.einsum("...gn,...n->...g", power, y) ** 2 / np.sum(power**2, axis=-1)
        best = gain.argmax(axis=-1)[..., None]
        exponent = np.take_along_axis(tried, best, axis=-1)[..., 0]
    power = np.exp(exponent[..., None] * np.log(x))
    return np.sum(y * power, axis=-1) / np.sum(power**2, axis=-1), exponent


def floor_fit(x: Array, y: Array) -> tuple[float, float, float]:
    """y = floor + c · x^-p, least squares in log space. `x`, `y` (n,), at least four → floor, c, p.

    Raises:
        ValueError: fewer than four points.
    """
    if len(x) < 4:
        raise ValueError(f"a power law with a floor needs at least 4 points, got {len(x)}")

    def misfit(log_gap: float) -> float:
        floor = y.min() * (1 - np.exp(log_gap))
        c, p = log_fit(x, y - floor)
        return float(np.sum(np.log(y / (floor + c * x**p)) ** 2))

    grid = np.linspace(-9.0, -1e-6, 90)
    best = grid[int(np.argmin([misfit(gap) for gap in grid]))]
    found = minimize_scalar(misfit, bounds=(best - 0.2, min(best + 0.2, 0.0)), method="bounded",
                            options={"xatol": 1e-12})  # fmt: skip
    floor = float(y.min() * (1 - np.exp(found.x)))
    c, p = log_fit(x, y - floor)
    return floor, float(c), -float(p)


@dataclass(frozen=True, kw_only=True)
class LossPower:
    """L(x) = floor + coef · x^-exponent."""

    floor: float
    """nat/token; 0 where none was fitted."""
    coef: float
    exponent: float

    def loss(self, x: Value) -> Value:
        """Loss at `x`, nat/token."""
        return self.floor + self.coef * x**-self.exponent


def loss_power(x: Array, loss: Array) -> LossPower:
    """A pure power law of loss, least squares in log space."""
    coef, exponent = log_fit(x, loss)
    return LossPower(floor=0.0, coef=float(coef), exponent=-float(exponent))


def loss_power_with_floor(x: Array, loss: Array) -> LossPower:
    """A power law of loss over a floor. Raises `ValueError` below four points."""
    floor, coef, exponent = floor_fit(x, loss)
    return LossPower(floor=floor, coef=coef, exponent=exponent)


def frontiers(cells: Cells) -> Mapping[str, tuple[Array, Array]]:
    """For each of `params tokens budget`: its levels and the best loss reached at each.

    Kaplan et al. (arXiv 2001.08361) fit L(N), L(D), L(C) to such points: they mean something where
    the other quantities were ample (N: trained long; D: a large model).
    """
    return {
        name: _best(np.asarray(values), cells.loss)
        for name, values in (
            ("params", cells.params), ("tokens", cells.tokens),
            ("budget", cells.budgets[cells.profile]),
        )
    }  # fmt: skip


def _best(values: Array, loss: Array) -> tuple[Array, Array]:
    levels, which = np.unique(values, return_inverse=True)
    best = np.full(len(levels), np.inf)
    np.minimum.at(best, which, loss)
    return levels, best
