"""Approach 2: the lowest loss of each isoFLOP profile, then power laws through the minima.

Losses may be stacked, (r, n): one row a bootstrap replicate, so that every replicate is one pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from analysis.cells import Cells
from analysis.laws import Array

CURVE_POINTS = 400  # where a spline is evaluated to find its lowest point, before refinement


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The runs of one budget, smallest model first."""

    budget: float
    """FLOP."""
    log_params: Array
    """(n,), strictly increasing."""
    log_tokens: Array
    """(n,)."""
    loss: Array
    """(n,)."""
    noise: float
    """Standard deviation of ln loss known from seeds and rates; 0 where it is not."""

    def tokens_at(self, log_params: Array) -> Array:
        """ln D at ln N: a straight line through the profile's runs, exact where C = 6 N D."""
        degree = 1 if len(self.log_params) < 3 else 2
        center = self.log_params.mean()
        line = np.polynomial.Polynomial.fit(self.log_params - center, self.log_tokens, degree)
        return line(log_params - center)


Minimum: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""(ln N (n,), loss (r, n)) → ln N and loss at the minimum (r,); NaN where there is none inside."""


def profiles(cells: Cells) -> list[Profile]:
    """The table's profiles, runs of one size averaged."""
    return [_profile(cells, number) for number in range(int(cells.profile.max()) + 1)]


def is_profiled(cells: Cells, sizes: int) -> bool:
    """Whether at least half of the points lie in budgets with `sizes` sizes: isoFLOP runs, then."""
    inside = [
        int(np.sum(cells.profile == number))
        for number, profile in enumerate(profiles(cells))
        if len(profile.log_params) >= sizes
    ]
    return 2 * sum(inside) >= len(cells)


def _profile(cells: Cells, number: int) -> Profile:
    here = cells.profile == number
    sizes, which = np.unique(cells.params[here], return_inverse=True)
    count = np.bincount(which)
    return Profile(
        budget=float(cells.budgets[number]),
        log_params=np.log(sizes),
        log_tokens=np.bincount(which, weights=np.log(cells.tokens[here])) / count,
        loss=np.bincount(which, weights=cells.loss[here]) / count,
        noise=cells.noise,
    )


def lowest_run(log_params: Array, loss: Array) -> tuple[Array, Array]:
    """The run of lowest loss, edges included."""
    best = loss.argmin(axis=1)
    return log_params[best], loss[np.arange(len(loss)), best]


def parabola(log_params: Array, loss: Array) -> tuple[Array, Array]:
    """Vertex of the least-squares parabola in ln N."""
    center = log_params.mean()
    x = log_params - center
    c, b, a = np.linalg.lstsq(np.vander(x, 3, increasing=True), loss.T, rcond=None)[0]
    convex = a > 0
    a = np.where(convex, a, 1.0)
    vertex = -b / (2 * a)
    return _inside(vertex + center, c - b**2 / (4 * a), log_params, convex)


def cubic(log_params: Array, loss: Array) -> tuple[Array, Array]:
    """Local minimum of the least-squares cubic in ln N: a parabola that may lean."""
    center = log_params.mean()
    x = log_params - center
    coefficients = np.linalg.lstsq(np.vander(x, 4, increasing=True), loss.T, rcond=None)[0]
    _, b, c, d = coefficients
    discriminant = c**2 - 3 * b * d
    real = discriminant > 0
    # The root of b + 2cx + 3dx² where the curve turns up, written to survive d → 0.
    root = np.sqrt(np.where(real, discriminant, 1.0))
    bottom = c + root
    real &= bottom > 0
    vertex = -b / np.where(real, bottom, 1.0)
    powers = np.stack([np.ones_like(vertex), vertex, vertex**2, vertex**3])
    return _inside(vertex + center, (coefficients * powers).sum(axis=0), log_params, real)


def akima(log_params: Array, loss: Array) -> tuple[Array, Array]:
    """Lowest point of the Akima spline through the runs."""
    # A third of a second to load, which a table without profiles need not wait for.
    from scipy.interpolate import Akima1DInterpolator  # noqa: PLC0415

    curve = Akima1DInterpolator(log_params, loss, axis=1)
    x = np.linspace(log_params[0], log_params[-1], CURVE_POINTS)
    y = curve(x)  # (r, points)
    best = y.argmin(axis=1)
    inner = (best > 0) & (best < len(x) - 1)
    middle = np.clip(best, 1, len(x) - 2)
    row = np.arange(len(y))
    left, low, right = y[row, middle - 1], y[row, middle], y[row, middle + 1]
    bend = np.maximum(left - 2 * low + right, 1e-12 * low)
    shift = np.clip(0.5 * (left - right) / bend, -1, 1)
    return _inside(x[middle] + shift * (x[1] - x[0]), low - 0.125 * (left - right) ** 2 / bend,
                   log_params, inner)  # fmt: skip


def _inside(
    position: Array, value: Array, log_params: Array, valid: NDArray[np.bool_]
) -> tuple[Array, Array]:
    good = valid & (position > log_params[0]) & (position < log_params[-1])
    return np.where(good, position, np.nan), np.where(good, value, np.nan)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to a profile's minimum."""

    minimum: Minimum
    sizes: int
    """Distinct sizes it needs in a profile."""
    degree: int
    """Degree of the polynomial in ln N around which its residuals are resampled."""
    words: str


METHODS: Mapping[str, Method] = {
    "argmin": Method(minimum=lowest_run, sizes=3, degree=2, words="lowest run of each budget"),
    "parabola": Method(minimum=parabola, sizes=3, degree=2, words="vertex of a parabola in ln N"),
    "akima": Method(minimum=akima, sizes=5, degree=3, words="lowest point of an Akima spline"),
    "cubic": Method(minimum=cubic, sizes=5, degree=3, words="minimum of a cubic in ln N"),
}
