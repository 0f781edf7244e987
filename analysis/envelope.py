"""Approach 1: the lower hull of training curves, log loss against log FLOPs."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.approaches import Draws, UnsupportedError, power_laws, spread
from analysis.laws import AllocationLaw, Array
from analysis.results import Fit, FitStatus, Point
from analysis.runs import Runs

ENVELOPE_DRAWS = 200
"""Most bootstrap hulls: each is a pass over all curves."""
SIZES = 3
"""Inner sizes that a hull must touch to show a slope."""


def lower_hull(x: Array, y: Array) -> NDArray[np.int64]:
    """Indices of the lower convex hull of points (n,), left to right (Andrew's monotone chain)."""
    order = np.lexsort((y, x))
    hull: list[int] = []
    for index in order:
        if hull and x[index] == x[hull[-1]]:
            continue  # the lowest of these came first
        while len(hull) >= 2 and _above(x, y, hull[-2], hull[-1], int(index)):
            hull.pop()
        hull.append(int(index))
    return np.array(hull, dtype=np.int64)


def _above(x: Array, y: Array, left: int, middle: int, right: int) -> bool:
    """Whether the middle point is on or above the chord from left to right."""
    return bool(
        (x[middle] - x[left]) * (y[right] - y[left]) <= (x[right] - x[left]) * (y[middle] - y[left])
    )


def frontier(flops: Array, loss: Array) -> NDArray[np.int64]:
    """Indices of the hull's falling part, in log-log: points of the compute-optimal frontier."""
    hull = lower_hull(np.log(flops), np.log(loss))
    return hull[: int(np.argmin(loss[hull])) + 1]


def _interior(hull: NDArray[np.int64], params: Array) -> NDArray[np.int64]:
    """The hull without the smallest and largest size: there the grid ends, not the frontier."""
    inside = (params[hull] > params.min()) & (params[hull] < params.max())
    return hull[inside]


def envelope_fit(runs: Runs, draws: Draws, at: tuple[float, ...]) -> Fit:
    """Approach 1: power laws through the lower hull of the runs' training curves.

    Raises:
        UnsupportedError: no curves, or a hull of fewer than three runs.
    """
    curves = _curves(runs)
    flops, loss = curves["flops"].to_numpy(float), curves["loss"].to_numpy(float)
    params, tokens = curves["params"].to_numpy(float), curves["tokens"].to_numpy(float)
    hull = _interior(frontier(flops, loss), params)
    sizes = len(np.unique(params[hull]))
    if sizes < SIZES:
        raise UnsupportedError(
            f"the hull of the curves touches {sizes} inner sizes, {SIZES} needed"
        )
    fitted = power_laws(flops[hull], params[hull], tokens[hull], raw=False)
    warning = "points in the middle of a decaying schedule are not compute-optimal runs"
    return Fit(
        at=at, name="envelope", law=fitted,
        objective_name="lower hull of training curves; power laws in log space",
        status=FitStatus(state="doubtful", reason=warning), warnings=(warning,),
        points=tuple(
            Point(
                budget=float(flops[i]), params=float(params[i]), tokens=float(tokens[i]),
                loss=float(loss[i]),
            )
            for i in hull
        ),
        **spread(_envelope_draws(curves, draws)),
    )  # fmt: skip


def _curves(runs: Runs) -> pd.DataFrame:
    """Curves of the completed runs, each point with its run's N."""
    if runs.curves is None or "trial" not in runs.table.columns:
        raise UnsupportedError("needs training curves (a table `curves` beside the runs)")
    sizes = runs.table[["trial", "params"]].drop_duplicates("trial")
    curves = runs.curves[["trial", "flops", "tokens", "loss"]]
    # A CSV may have read keys as numbers on one side only.
    curves = curves.astype({"trial": str}).merge(sizes.astype({"trial": str}), on="trial")
    curves = curves[(curves["flops"] > 0) & (curves["loss"] > 0)]
    if curves.empty:
        raise UnsupportedError("no curve belongs to a completed run")
    return curves


def _envelope_draws(curves: pd.DataFrame, draws: Draws) -> AllocationLaw | None:
    """Power laws through the hulls of curves drawn with replacement; None without replicates."""
    rng = np.random.default_rng(draws.seed)
    groups = [
        group.to_numpy(float)
        for _, group in curves.groupby("trial")[["flops", "loss", "params", "tokens"]]
    ]
    rows = []
    for _ in range(min(draws.replicates, ENVELOPE_DRAWS)):
        chosen = rng.integers(len(groups), size=len(groups))
        flops, loss, params, tokens = np.concatenate([groups[i] for i in chosen]).T
        hull = _interior(frontier(flops, loss), params)
        if len(np.unique(params[hull])) < SIZES:
            continue
        with np.errstate(over="ignore"):
            law = power_laws(flops[hull], params[hull], tokens[hull], raw=False)
        # Points at nearly one budget have no slope: their coefficient at 1 FLOP is beyond a float.
        if all(np.isfinite(coef).all() for coef in (law.n_coef, law.d_coef)):
            rows.append(law)
    if not rows:
        return None
    return AllocationLaw(**{
        letter: np.array([getattr(row, letter) for row in rows])
        for letter in ("n_coef", "a", "d_coef", "b")
    })  # fmt: skip
