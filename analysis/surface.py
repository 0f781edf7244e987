"""A law of loss and its learning rates in one: every completed run counts, not a cell's best alone.

ln L = ln(E + A / N^alpha + B / D^beta + k · (ln rate - r - p · ln N - q · ln D)²): Chinchilla's law
(Hoffmann et al., arXiv 2203.15556, eq. 10), a parabola in ln rate, and a best rate that is a power
law in N and D (Step Law, arXiv 2503.04715, eq. 1). Weak priors make it answer from a dozen runs.
Needs neither the runs' table nor a bootstrap: 20 ms a fit, for those who ask often.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import t as student

from analysis.laws import FLOPS_PER_PARAM_TOKEN, Array, LossLaw
from analysis.newton import coordinates
from analysis.results import FitError
from analysis.scatter import EXPECTED, Scatter, estimated

LETTERS = ("ln A", "ln B", "ln E", "alpha", "beta", "ln k", "r", "p", "q")
"""Coordinates of a point, N and D centered at the runs' means."""
ROUNDS = 4
"""Fits in turn with the scatter that the last one found."""
ADRIFT = 0.3
"""A parabola holds near its vertex: this share of what it adds may be wrong."""
EXPECTATION = 2.0
"""Runs that what is expected of noise beforehand is worth."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Completed runs: arrays of n."""

    budget: Array
    """FLOP."""
    params: Array
    tokens: Array
    learning_rate: Array
    loss: Array
    """nat/token."""

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.loss)

    @property
    def flops_per_param_token(self) -> float:
        """What budgets count, C = this · N · D: 6 unless the runs differ by more than 1 %."""
        mean = float(np.exp(np.log(self.budget / (self.params * self.tokens)).mean()))
        return FLOPS_PER_PARAM_TOKEN if abs(mean / FLOPS_PER_PARAM_TOKEN - 1) < 0.01 else mean


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the runs of one size and count of tokens tell of a surface's point: sums over them."""

    runs: float = 0.0
    """How many."""
    known: float = 0.0
    """1 / variance of each one's own noise."""
    pull: Array = field(default_factory=lambda: np.zeros(len(LETTERS)))
    """(9,) prediction's derivative by the point, over that variance."""
    square: Array = field(default_factory=lambda: np.zeros((len(LETTERS), len(LETTERS))))
    """(9, 9) its outer product with itself, over that variance."""

    def with_runs(self, slope: Array, own: float, times: float = 1.0) -> "Evidence":
        """After `times` runs with that derivative (9,) and noise of their own."""
        weight = times / own**2
        return Evidence(
            runs=self.runs + times,
            known=self.known + weight,
            pull=self.pull + weight * slope,
            square=self.square + weight * np.outer(slope, slope),
        )

    def precision(self, shared: float) -> Array:
        """(9, 9) of the point, where the runs share a deviation of that size."""
        return self.square - np.outer(self.pull, self.pull) / (shared**-2 + self.known)


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A fit, with the Gauss-Newton covariance of its point."""

    point: Array
    """(9,), by `LETTERS`."""
    prior: Array
    """(9, 9) its precision before any run."""
    noise: float
    """Standard deviation of a run's ln loss."""
    shared: float
    """Standard deviation of what the runs of a budget and size have in common: how far off the law
    they lie together."""
    freedom: float
    """Degrees of freedom that both are known with."""
    cells: Mapping[tuple[float, float], Evidence]
    """Of each (N, D) that has runs."""
    centers: tuple[float, float]
    """Mean ln N and ln D."""
    flops_per_param_token: float
    """What budgets count: C = this · N · D."""

    @cached_property
    def covariance(self) -> Array:
        """(9, 9) of the point, its prior counted."""
        return _inverse(
            self.prior + sum(cell.precision(self.shared) for cell in self.cells.values())
        )

    @property
    def runs(self) -> float:
        """How many it is told by."""
        return sum(cell.runs for cell in self.cells.values())

    def predicted(self, params: Array, tokens: Array, rate: Array) -> tuple[Array, Array, Array]:
        """ln loss (n,), its derivative by the point (n, 9), and the standard deviation of one run's
        own ln loss around it (n,)."""
        log_loss, slope, added = _evaluate(self.point, self._places(params, tokens, rate))
        return log_loss, slope, np.hypot(self.noise, ADRIFT * added)

    def best_rate(self, params: float, tokens: float) -> float:
        """Learning rate of the lowest loss."""
        x, y = np.log(params) - self.centers[0], np.log(tokens) - self.centers[1]
        return float(np.exp(self.point[6] + self.point[7] * x + self.point[8] * y))

    @property
    def law(self) -> LossLaw:
        """Loss at the best rate."""
        return self._law(self.point)

    def targets(self, budget: float) -> tuple[Array, Array]:
        """ln N_opt and ln of the lowest loss at `budget` FLOP, and their derivatives (2, 9)."""
        step = 1e-5 * np.eye(len(LETTERS))
        ahead, behind = (self._answers(self.point + sign * step, budget) for sign in (1, -1))
        return self._answers(self.point[None], budget)[:, 0], (ahead - behind) / 2e-5

    def error(self, budget: float) -> Array:
        """Standard errors of ln N_opt and ln of the lowest loss at `budget`: (2,)."""
        slope = self.targets(budget)[1]
        return np.sqrt(np.einsum("tk,kl,tl->t", slope, self.covariance, slope))

    def half_widths(self, budget: float, confidence: float = 0.9) -> Array:
        """Half the intervals of ln N_opt and of ln of the lowest loss at `budget`: (2,)."""
        quantile = float(student.ppf((1 + confidence) / 2, self.freedom))
        return quantile * self.error(budget)

    def falls(self, params: Array, tokens: Array, rate: Array, budget: float) -> Array:
        """Shares that one run each (n,) would take from the variances of ln N_opt and of the lowest
        ln loss at `budget`: (2, n)."""
        slope, spread = self._new(params, tokens, rate)
        answer = self.targets(budget)[1]
        moved = slope @ self.covariance
        noise = spread**2 + np.einsum("nk,nk->n", moved, slope)
        return (answer @ moved.T) ** 2 / noise / self.error(budget)[:, None] ** 2

    def with_runs(self, params: Array, tokens: Array, rate: Array, times: float = 1.0) -> "Surface":
        """The same fit with the covariance it will have when `times` runs of each of these (n,)
        will have ended."""
        _, slope, own = self.predicted(params, tokens, rate)
        places = zip(params.tolist(), tokens.tolist(), slope, own.tolist(), strict=True)
        return replace(self, cells=_counted(self.cells, places, times))

    def _new(self, params: Array, tokens: Array, rate: Array) -> tuple[Array, Array]:
        """What a run each (n,) would tell beyond the runs of its cell: the derivative by the point
        (n, 9), and the standard deviation around it (n,)."""
        _, slope, own = self.predicted(params, tokens, rate)
        places = zip(params.tolist(), tokens.tolist(), strict=True)
        cells = [self.cells.get(place, Evidence()) for place in places]
        unknown = 1 / (self.shared**-2 + np.array([cell.known for cell in cells]))
        pulls = np.stack([cell.pull for cell in cells])
        return slope - unknown[:, None] * pulls, np.sqrt(own**2 + unknown)

    def _answers(self, points: Array, budget: float) -> Array:
        law = self._law(points)
        return np.log(np.stack([np.asarray(law.n_opt(budget)), np.asarray(law.loss_opt(budget))]))

    def _law(self, points: Array) -> LossLaw:
        ln_a, ln_b, ln_e, alpha, beta = coordinates(points)[:5]
        x, y = self.centers
        return LossLaw(
            E=np.exp(ln_e), A=np.exp(ln_a + alpha * x), B=np.exp(ln_b + beta * y),
            alpha=alpha, beta=beta, flops_per_param_token=self.flops_per_param_token,
        )  # fmt: skip

    def _places(self, params: Array, tokens: Array, rate: Array) -> Array:
        return _centered(params, tokens, rate, self.centers)


@dataclass(frozen=True, kw_only=True)
class _Prior:
    """What is expected of a point before any run, as wide as published laws differ."""

    mean: Array
    spread: Array

    @property
    def precision(self) -> Array:
        """(9, 9)"""
        return np.diag(self.spread**-2)

    @classmethod
    def of(cls, runs: Tuned, rates: tuple[float, float]) -> "_Prior":
        lowest, middle = float(runs.loss.min()), np.log(rates).mean()
        width = float(np.ptp(np.log(rates)))
        # Means halfway between mup (no drift of the best rate) and Step Law (-.713, .307).
        return cls(
            mean=np.array([
                np.log(0.2 * lowest), np.log(0.2 * lowest), np.log(0.6 * lowest), 0.35, 0.32,
                np.log(0.02), middle, -0.35, 0.15,
            ]),
            spread=np.array([1.0, 1.0, 0.4, 0.2, 0.2, 1.0, width / 2, 0.4, 0.3]),
        )  # fmt: skip


def fit(runs: Tuned, rates: tuple[float, float]) -> Surface:
    """Fit the surface.

    Args:
        runs: completed ones.
        rates: lowest and highest learning rate that is searched.

    Raises:
        FitError: no law with a best allocation was found.
    """
    runs, counts = _by_cell(runs)
    centers = float(np.log(runs.params).mean()), float(np.log(runs.tokens).mean())
    places = _centered(runs.params, runs.tokens, runs.learning_rate, centers)
    prior, measured = _Prior.of(runs, rates), np.log(runs.loss)
    point, (noise, shared) = prior.mean, EXPECTED
    log_loss, slope, added = _evaluate(point, places)
    for _ in range(ROUNDS):
        scatter = Scatter(own=np.hypot(noise, ADRIFT * added), shared=shared, counts=counts)
        point = _solved(places, measured, scatter, prior, point)
        log_loss, slope, added = _evaluate(point, places)
        left, pull = measured - log_loss, prior.precision @ (prior.mean - point)
        noise, shared = estimated(left, slope, ADRIFT * added, counts, prior.precision, pull)
    if point[3] <= 0 or point[4] <= 0:
        raise FitError("the fitted loss does not fall with both model size and tokens")
    own = np.hypot(noise, ADRIFT * added)
    told = zip(runs.params.tolist(), runs.tokens.tolist(), slope, own.tolist(), strict=True)
    found = Surface(
        point=point, prior=prior.precision, noise=noise, shared=shared, freedom=EXPECTATION,
        cells=_counted({}, told), centers=centers,
        flops_per_param_token=runs.flops_per_param_token,
    )  # fmt: skip
    used = len(LETTERS) - float(np.trace(found.covariance @ prior.precision))
    worth = Scatter(own=own, shared=shared, counts=counts).worth(noise)
    return replace(found, freedom=EXPECTATION + max(worth - used, 0.0))


def _by_cell(runs: Tuned) -> tuple[Tuned, NDArray[np.int64]]:
    """Runs ordered by size and tokens, and how many are alike in both."""
    order = np.lexsort((runs.tokens, runs.params))
    runs = Tuned(**{name: values[order] for name, values in vars(runs).items()})
    pairs = np.stack([runs.params, runs.tokens])
    return runs, np.unique(pairs, axis=1, return_counts=True)[1]


def _counted(
    cells: Mapping[tuple[float, float], Evidence],
    runs: Iterable[tuple[float, float, Array, float]],
    times: float = 1.0,
) -> dict[tuple[float, float], Evidence]:
    """Cells with `times` runs of each (N, D, derivative, noise of their own) more."""
    counted = dict(cells)
    for params, tokens, slope, own in runs:
        before = counted.get((params, tokens), Evidence())
        counted[params, tokens] = before.with_runs(slope, own, times)
    return counted


def _solved(places: Array, measured: Array, scatter: Scatter, prior: _Prior, start: Array) -> Array:
    """The point of least squares."""

    def residuals(point: Array) -> Array:
        left = _evaluate(point, places)[0] - measured
        away = (point - prior.mean) / prior.spread
        return np.concatenate([scatter.whitened(left[:, None])[:, 0], away])

    def jacobian(point: Array) -> Array:
        return np.vstack([scatter.whitened(_evaluate(point, places)[1]), np.diag(1 / prior.spread)])

    found = least_squares(residuals, start, jacobian, method="lm", xtol=1e-10, ftol=1e-10)
    if not found.success:
        raise FitError(f"surface: {found.message}")
    return found.x


def _centered(params: Array, tokens: Array, rate: Array, centers: tuple[float, float]) -> Array:
    """(3, n): ln N and ln D from their centers, ln rate."""
    return np.stack([np.log(params) - centers[0], np.log(tokens) - centers[1], np.log(rate)])


def _evaluate(point: Array, places: Array) -> tuple[Array, Array, Array]:
    """ln loss (n,), its derivative (n, 9), and the share of the loss that the rate adds (n,)."""
    x, y, rate = places
    ln_a, ln_b, ln_e, alpha, beta, ln_k, r, p, q = point
    size, text = np.exp(ln_a - alpha * x), np.exp(ln_b - beta * y)
    off = rate - r - p * x - q * y
    floor, added, pull = np.full_like(x, np.exp(ln_e)), np.exp(ln_k) * off**2, np.exp(ln_k) * off
    loss = floor + size + text + added
    slopes = [size, text, floor, -x * size, -y * text, added, *(-2 * pull * s for s in (1, x, y))]
    return np.log(loss), np.stack(slopes, axis=-1) / loss[:, None], added / loss


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)
