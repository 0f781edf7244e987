"""A law of loss and its learning rates in one: every completed run counts, not a cell's best alone.

ln L = ln(E + A / N^alpha + B / D^beta + k · (ln rate - r - p · ln N - q · ln D)²): Chinchilla's law
(Hoffmann et al., arXiv 2203.15556, eq. 10), a parabola in ln rate, and a best rate that is a power
law in N and D (Step Law, arXiv 2503.04715, eq. 1). Weak priors make it answer from a dozen runs.
Needs neither the runs' table nor a bootstrap: milliseconds a fit, for those who ask often.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t as student

from analysis.laws import FLOPS_PER_PARAM_TOKEN, Array, LossLaw
from analysis.newton import coordinates
from analysis.results import FitError

LETTERS = ("ln A", "ln B", "ln E", "alpha", "beta", "ln k", "r", "p", "q")
"""Coordinates of a point, N and D centered at the runs' means."""
ROUNDS = 4
"""Fits in turn with the noise and the weights that the last one found."""
ADRIFT = 0.3
"""A parabola holds near its vertex: this share of what it adds may be wrong."""
NOISE, NOISE_WEIGHT = 0.003, 4.0
"""Standard deviation of ln loss expected beforehand, and the runs that this expectation is worth:
what seeds of one configuration differ by (tests/benchmarks/answer.py)."""


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
class Surface:
    """A fit, with the Gauss-Newton covariance of its point."""

    point: Array
    """(9,), by `LETTERS`."""
    covariance: Array
    """(9, 9), priors counted."""
    noise: float
    """Standard deviation of ln loss."""
    freedom: float
    """Degrees of freedom that the noise is known with."""
    centers: tuple[float, float]
    """Mean ln N and ln D."""
    flops_per_param_token: float
    """What budgets count: C = this · N · D."""

    def predicted(self, params: Array, tokens: Array, rate: Array) -> tuple[Array, Array, Array]:
        """ln loss (n,), its derivative by the point (n, 9), and the standard deviation of one run's
        ln loss around it (n,)."""
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
        _, slope, spread = self.predicted(params, tokens, rate)
        answer = self.targets(budget)[1]
        moved = slope @ self.covariance
        noise = spread**2 + np.einsum("nk,nk->n", moved, slope)
        return (answer @ moved.T) ** 2 / noise / self.error(budget)[:, None] ** 2

    def with_runs(self, params: Array, tokens: Array, rate: Array) -> "Surface":
        """The same fit with the covariance it will have when runs (n,) of these will have ended."""
        _, slope, spread = self.predicted(params, tokens, rate)
        scaled = slope / spread[:, None]
        precision = _inverse(self.covariance) + scaled.T @ scaled
        return replace(self, covariance=_inverse(precision))

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
    centers = float(np.log(runs.params).mean()), float(np.log(runs.tokens).mean())
    places = _centered(runs.params, runs.tokens, runs.learning_rate, centers)
    prior, measured = _Prior.of(runs, rates), np.log(runs.loss)
    point, noise, freedom = prior.mean, NOISE, NOISE_WEIGHT
    precision = np.eye(len(LETTERS))
    for _ in range(ROUNDS):
        spread = np.hypot(noise, ADRIFT * _evaluate(point, places)[2])
        point, slope = _solved(places, measured, spread, prior, point)
        data = slope.T @ slope
        precision = data + np.diag(prior.spread**-2)
        left = (_evaluate(point, places)[0] - measured) * noise / spread
        used = float(np.trace(np.linalg.solve(precision, data)))
        freedom = NOISE_WEIGHT + max(len(runs) - used, 0.0)
        noise = float(np.sqrt((NOISE_WEIGHT * NOISE**2 + left @ left) / freedom))
    if point[3] <= 0 or point[4] <= 0:
        raise FitError("the fitted loss does not fall with both model size and tokens")
    return Surface(
        point=point, covariance=_inverse(precision), noise=noise, freedom=freedom,
        centers=centers, flops_per_param_token=runs.flops_per_param_token,
    )  # fmt: skip


def _solved(
    places: Array, measured: Array, spread: Array, prior: _Prior, start: Array
) -> tuple[Array, Array]:
    """The point of least squares, and the derivative (n, 9) of the scaled predictions there."""

    def residuals(point: Array) -> Array:
        left = (_evaluate(point, places)[0] - measured) / spread
        return np.concatenate([left, (point - prior.mean) / prior.spread])

    def jacobian(point: Array) -> Array:
        return np.vstack([_evaluate(point, places)[1] / spread[:, None], np.diag(1 / prior.spread)])

    found = least_squares(residuals, start, jacobian, method="lm", xtol=1e-10, ftol=1e-10)
    if not found.success:
        raise FitError(f"surface: {found.message}")
    return found.x, jacobian(found.x)[: len(measured)]


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
