"""Resampled tables, whose fits are the draws that every interval comes from.

`pairs` draws whole trials with replacement: it assumes least, and covers 74 % where it says 95 %
with nine runs. `residual`, the default for few trials, draws new noise around the law instead,
with its level counted in degrees of freedom and, draw by draw, from its own distribution (so that
intervals have Student's tails), and with the correlation found within trials. `wild` keeps each
trial's own residual, leverage taken out, with a random sign and size: for noise that differs from
run to run, under a least-squares objective only. Under Huber or absolute deviations runs that the
law passes through would never move, and it covers 55-85 % (tests/benchmarks/coverage.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from analysis.laws import Array
from analysis.problem import Problem

Bootstrap: TypeAlias = Literal["pairs", "wild", "residual"]
UNIDENTIFIED_SHARE = 0.1
"""Of draws on a bound or an edge: from here on the interval speaks of the bound."""
CHUNK = 2**17
"""Numbers a resampled table may hold: enough replicates that Newton's own steps cost little."""
MANY_TRIALS = 100
"""From here on pairs is as good as any, and assumes least."""


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """What is left of ln loss after a fit, made fit to be drawn again."""

    predicted: Array
    """ln of predicted loss: (n,)."""
    adjusted: Array
    """ln measured - ln predicted, over sqrt(1 - leverage), rescaled to `noise`: (n,)."""
    noise: float
    """Standard deviation of ln loss, degrees of freedom counted."""
    freedom: int
    """Trials less fitted parameters."""
    correlation: float
    """Of residuals within a trial; 0 where every trial is one point."""


def residuals(
    measured: Array, predicted: Array, jacobian: Array, clusters: NDArray[np.int64],
    *, floor: float = 0.0,
) -> Residuals:  # fmt: skip
    """Residuals of ln loss (n,), and the leverage of a fit of derivative `jacobian` (n, p).

    `floor` is noise known from elsewhere (seeds, tuning): a lucky fit does not go below it.
    """
    left = measured - predicted
    fitted = jacobian.shape[1]
    noise = max(float(np.sqrt(left @ left / max(len(left) - fitted, 1))), floor)
    basis = np.linalg.qr(jacobian)[0]
    leverage = np.minimum((basis**2).sum(axis=1), 1 - 1e-3)
    adjusted = left / np.sqrt(1 - leverage)
    spread = float(np.sqrt(np.mean(adjusted**2)))
    return Residuals(
        predicted=predicted,
        adjusted=adjusted * (noise / spread) if spread > 0 else adjusted,
        noise=noise,
        freedom=max(len(np.unique(clusters)) - fitted, 1),
        correlation=_within(left, clusters),
    )


def _within(left: Array, clusters: NDArray[np.int64]) -> float:
    """Correlation of residuals within trials: mean product over pairs, over the mean square."""
    which = np.unique(clusters, return_inverse=True)[1]
    size = np.bincount(which)
    pairs = float((size * (size - 1)).sum())
    square = float(left @ left)
    if pairs == 0 or square == 0:
        return 0.0
    products = float((np.bincount(which, weights=left) ** 2).sum()) - square
    return float(np.clip(products / pairs / (square / len(left)), 0.0, 1.0))


def default_bootstrap(clusters: NDArray[np.int64]) -> Bootstrap:
    """Pairs for many trials, residuals for few."""
    return "pairs" if len(np.unique(clusters)) >= MANY_TRIALS else "residual"


def counts(clusters: NDArray[np.int64], replicates: int, rng: np.random.Generator) -> Array:
    """How often each point is drawn when whole trials are drawn with replacement: (r, n)."""
    which = np.unique(clusters, return_inverse=True)[1]
    trials = int(which.max()) + 1
    drawn = rng.multinomial(trials, np.full(trials, 1 / trials), size=replicates)
    return drawn[:, which].astype(np.float64)


def redrawn(
    left: Residuals, clusters: NDArray[np.int64], bootstrap: Bootstrap, replicates: int,
    rng: np.random.Generator,
) -> Array:  # fmt: skip
    """ln loss with new residuals: (r, n)."""
    which = np.unique(clusters, return_inverse=True)[1]
    shared = rng.normal(size=(replicates, int(which.max()) + 1))[:, which]
    if bootstrap == "wild":
        noise = left.adjusted * shared
    else:
        own = rng.normal(size=shared.shape)
        share = left.correlation
        noise = left.noise * (np.sqrt(share) * shared + np.sqrt(1 - share) * own)
    tail = np.sqrt(left.freedom / rng.chisquare(left.freedom, size=(replicates, 1)))
    return left.predicted + tail * noise


def resampled(
    problem: Problem, left: Residuals, clusters: NDArray[np.int64], bootstrap: Bootstrap,
    replicates: int, rng: np.random.Generator,
) -> Iterator[Problem]:  # fmt: skip
    """`replicates` resampled tables, a cache-sized chunk at a time: memory stays flat."""
    # Draws of pairs are the same however they are cut, and have no losses of their own.
    size = max((2 if bootstrap == "pairs" else 1) * CHUNK // len(clusters), 1)
    for first in range(0, replicates, size):
        chunk = min(size, replicates - first)
        if bootstrap == "pairs":
            yield replace(problem, weights=counts(clusters, chunk, rng))
        else:
            drawn = redrawn(left, clusters, bootstrap, chunk, rng)
            yield replace(problem, log_loss=drawn)
