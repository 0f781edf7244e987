"""What the runs say of a recipe number at another budget: learning rate, batch size."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from analysis.cells import Cells
from analysis.laws import Array
from analysis.runs import Runs

NEAR_OPTIMUM = 2.5
"""Cells within this factor of a budget's best size speak for its learning rate."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class _Line:
    """Least squares of ln value on ln budget, flat where the slope is not significant."""

    mean: float
    slope: float
    center: float
    power: float
    """Sum of squares of x about its center."""
    variance: float
    """Of the points about the line."""
    freedom: int


def trend(points: Cells, values: Array, budget: float, *, spacing: float = 0.0) -> Estimate | None:
    """A recipe number at `budget`, from the best cells near each budget's optimum.

    A power law in the budget where its slope is significant (95 %), else the geometric mean: two
    noisy budgets must not decide over five orders of magnitude. The interval is that of the mean
    of such cells, and never narrower than half of `spacing` on either side: between two values
    that were tried nothing is known.

    Args:
        points: n cells.
        values: the number at each, shape (n,); NaN where none is named.
        budget: where it is asked for, FLOP.
        spacing: ln of the factor between values tried; 0 where they were not searched.

    Returns:
        The number with its interval; None where no cell near an optimum names one.
    """
    known = np.isfinite(values) & (values > 0)
    best = {p: points.params[points.profile == p][points.loss[points.profile == p].argmin()]
            for p in np.unique(points.profile)}  # fmt: skip
    center = np.array([best[p] for p in points.profile])
    near = known & (np.abs(np.log(points.params / center)) < np.log(NEAR_OPTIMUM))
    if not near.any():
        return None
    line = _line(np.log(points.budget[near]), np.log(values[near]))
    beyond = np.log(budget) - line.center
    middle = line.mean + line.slope * beyond
    error = line.variance * (1 / near.sum() + (beyond**2 / line.power if line.slope else 0.0))
    wide = student.ppf(0.975, line.freedom) * np.sqrt(error) if line.freedom else 0.0
    half = float(np.hypot(wide, spacing / 2))
    value, low, high = np.exp([middle, middle - half, middle + half])
    return Estimate(value=float(value), low=float(low), high=float(high))


def _line(x: Array, y: Array) -> _Line:
    center, mean, count = float(x.mean()), float(y.mean()), len(x)
    flat = float(((y - mean) ** 2).sum())
    level = _Line(mean, 0.0, center, 1.0, flat / max(count - 1, 1), count - 1)
    if count < 3 or np.ptp(x) < 0.1:
        return level
    away = x - center
    power = float(away @ away)
    slope = float(y @ away / power)
    variance = float(((y - mean - slope * away) ** 2).sum()) / (count - 2)
    if abs(slope) <= student.ppf(0.975, count - 2) * np.sqrt(variance / power):
        return level
    return _Line(mean, slope, center, power, variance, count - 2)


def spacing(runs: Runs, name: str) -> float:
    """Median ln factor between neighboring values of column `name` tried at one (budget, params).

    0 where the column is absent or no cell tried two.
    """
    table = runs.trials if name in runs.trials.columns else runs.table
    if not {name, "budget", "params"} <= set(table.columns):
        return 0.0
    tried = table[["budget", "params", name]].dropna().drop_duplicates()
    tried = tried[tried[name] > 0].sort_values(name).copy()
    tried["log"] = np.log(tried[name].to_numpy(dtype=np.float64))
    steps = tried.groupby(["budget", "params"])["log"].diff()
    return float(steps.median()) if steps.notna().any() else 0.0
