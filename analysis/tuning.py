"""What a tuned table says of its own noise: repeated seeds, and what the rates tried miss."""

import numpy as np
import pandas as pd

from analysis.laws import Array


def known_noise(table: pd.DataFrame, cell: list[str], recipe: list[str]) -> float:
    """Standard deviation of a cell's ln loss, as seeds and rates show it; 0 where they show none.

    `cell` names the columns of a (budget, shape), `recipe` those that were tuned within it.
    """
    return float(np.sqrt(_seed_variance(table, cell + recipe) + _tuning_variance(table, cell)))


def _seed_variance(table: pd.DataFrame, keys: list[str]) -> float:
    """Variance of a mean over seeds, pooled over the configurations that were repeated."""
    groups = table.assign(log_loss=np.log(table["loss"])).groupby(keys, dropna=False)["log_loss"]
    seeds, spread = groups.count(), groups.var()
    repeated = seeds > 1
    if not repeated.any():
        return 0.0
    weights = seeds[repeated] - 1
    pooled = float((spread[repeated] * weights).sum() / weights.sum())
    return pooled / float(seeds.median())


def _tuning_variance(table: pd.DataFrame, cell: list[str]) -> float:
    """Variance over cells of what the best rate tried lacks of the vertex of a parabola in ln rate.

    What all cells lack alike moves E, not the exponents: only the variance is noise.
    """
    means = table.groupby([*cell, "learning_rate"], dropna=False)["loss"].mean().reset_index()
    gaps = [
        gap
        for _, group in means.groupby(cell, dropna=False)
        if (gap := _gap(group["learning_rate"].to_numpy(float), group["loss"].to_numpy(float)))
        is not None
    ]
    return float(np.var(gaps, ddof=1)) if len(gaps) > 2 else 0.0


def _gap(rates: Array, loss: Array) -> float | None:
    """ln of best loss over vertex loss, from the best rate and its neighbors; None on an edge."""
    best = int(loss.argmin())
    if best in (0, len(loss) - 1):
        return None
    x = np.log(rates[best - 1 : best + 2] / rates[best])
    vertex = np.polynomial.Polynomial.fit(x, loss[best - 1 : best + 2], 2)
    lowest = float(vertex(vertex.deriv().roots()[0].real))
    return float(np.log(loss[best] / lowest))
