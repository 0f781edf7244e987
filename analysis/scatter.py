"""How runs scatter around a law: each by noise of its own, and all of a budget and size alike.

No law of five letters holds to the noise of real runs: a size lies a percent off it with all its
rates and seeds. Taken for noise, that makes forty runs of ten sizes tell far more than they do, and
lets the sizes with most runs pull the law. So the runs of a budget and size, a cell, share a
deviation (Laird and Ware, Biometrics 1982), and its size is estimated beside the noise's by
restricted likelihood (Patterson and Thompson, Biometrika 1971).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.laws import Array

EXPECTED = (0.003, 0.003)
"""Standard deviations of ln loss expected beforehand, of noise and of what a cell shares: the
first is what seeds of one configuration differ by (tests/benchmarks/answer.py)."""
DOUBT = (1.0, 1.5)
"""E-folds by which they may be otherwise."""


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Covariance of n runs' ln losses, cell after cell: diag(own²), and shared² within a cell."""

    own: Array
    """(n,) standard deviation of each run's own."""
    shared: float
    """Standard deviation of what the runs of a cell share."""
    counts: NDArray[np.int64]
    """(cells,) runs of each."""

    def gram(self, rows: Array) -> Array:
        """Rows (n, k), transposed, times the covariance's inverse times them: (k, k)."""
        weighted = rows / self.own[:, None] ** 2
        sums = self._sums(weighted)
        unknown = 1 / (self.shared**-2 + self._known)
        return rows.T @ weighted - sums.T @ (unknown[:, None] * sums)

    def whitened(self, rows: Array) -> Array:
        """Rows (n, k) times an inverse root of the covariance: their Gram matrix is `gram`."""
        own, known = self.own[:, None], self._known
        scaled = rows / own
        taken = (1 - 1 / np.sqrt(1 + self.shared**2 * known)) / known
        common = taken[:, None] * self._sums(scaled / own)
        return scaled - np.repeat(common, self.counts, axis=0) / own

    @property
    def log_determinant(self) -> float:
        """Of the covariance."""
        return float(2 * np.log(self.own).sum() + np.log1p(self.shared**2 * self._known).sum())

    def worth(self, noise: float) -> float:
        """Independent runs that these count for (Kish, Survey Sampling 1965, section 5.4): as many
        as cells where noise is nothing, all n where nothing is shared."""
        alike = self.shared**2 / (self.shared**2 + noise**2)
        return float((self.counts / (1 + (self.counts - 1) * alike)).sum())

    @property
    def _known(self) -> Array:
        """Sum of 1 / own² over each cell."""
        return self._sums(self.own**-2)

    def _sums(self, values: Array) -> Array:
        """(n, …) to (cells, …)."""
        return np.add.reduceat(values, np.cumsum(self.counts) - self.counts, axis=0)


def estimated(
    left: Array, slope: Array, drift: Array, counts: NDArray[np.int64], prior: Array, pull: Array
) -> tuple[float, float]:
    """Standard deviations of noise and of what cells share, by restricted likelihood.

    Args:
        left: (n,) what a fit leaves of ln loss.
        slope: (n, k) derivative of its prediction by its point.
        drift: (n,) standard deviation that comes to each run's noise.
        counts: (cells,) runs of each, cell after cell.
        prior: (k, k) precision of the point beforehand.
        pull: (k,) `prior` times the way from the point to where it was expected.
    """
    rows = np.column_stack([left, slope])

    def unlikely(logs: Array) -> float:
        noise, shared = np.exp(logs)
        scatter = Scatter(own=np.hypot(noise, drift), shared=float(shared), counts=counts)
        gram = scatter.gram(rows)
        precision, moved = gram[1:, 1:] + prior, gram[1:, 0] + pull
        squares = gram[0, 0] - moved @ np.linalg.solve(precision, moved)
        doubt = (((logs - np.log(EXPECTED)) / DOUBT) ** 2).sum()
        return float(scatter.log_determinant + np.linalg.slogdet(precision)[1] + squares + doubt)

    # To a hundredth, far closer than they are known.
    options = {"xatol": 1e-2, "fatol": 1e-3}
    found = minimize(unlikely, np.log(EXPECTED), method="Nelder-Mead", options=options)
    noise, shared = np.exp(found.x)
    return float(noise), float(shared)
