"""The points a fit sees: one a (budget, shape), at the best learning rate tried there."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import tables
from analysis.laws import Array
from analysis.runs import Runs
from analysis.tables import FlopCount
from analysis.tuning import known_noise

SHAPE = ("d_model", "num_layers", "num_heads", "d_ff")
NEAR_END = 0.1  # share of the log-width of all rates tried, from its ends
SAME_BUDGET = 0.005  # budgets closer than this are one profile: tables round
ONE_BUDGET = 0.05  # a table whose budgets all lie this close, ln FLOP, has no exponent to show


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Arrays of n points."""

    budget: Array
    """FLOP."""
    params: Array
    tokens: Array
    loss: Array
    """nat/token; the mean over seeds at the best rate."""
    cluster: NDArray[np.int64]
    """Points of one trial (checkpoints) share a number: a bootstrap draws them together."""
    profile: NDArray[np.int64]
    """Number of the isoFLOP profile, smallest budget first."""
    learning_rate: Array
    """Best rate; NaN where the table names none."""
    batch_size: Array
    """Sequences a step at that rate; NaN where the table names none."""
    rate_on_edge: NDArray[np.bool_]
    """The best rate is the lowest or highest of several tried."""
    rate_at_end: NDArray[np.bool_]
    """Such a rate lies near the lowest or highest that was tried anywhere in the table."""
    row: NDArray[np.int64]
    """Row of the file: the first of those that make the point."""
    noise: float
    """Standard deviation of ln loss that seeds and rates show; 0 where they show none."""
    flops: FlopCount = "budget"
    """What budgets count."""

    def __len__(self) -> int:
        """Number of points."""
        return len(self.loss)

    @property
    def budgets(self) -> Array:
        """Mean budget of each profile, FLOP."""
        logs = np.log(self.budget)
        count = np.bincount(self.profile)
        return np.exp(np.bincount(self.profile, weights=logs) / count)

    @property
    def one_budget(self) -> bool:
        """Whether compute hardly varies: then nothing is known of other budgets."""
        return bool(np.ptp(np.log(self.budget)) < ONE_BUDGET)

    @property
    def flops_per_param_token(self) -> float:
        """What budgets count, C = this · N · D: 6 unless the table differs by more than 1 %."""
        mean = float(np.exp(np.log(self.budget / (self.params * self.tokens)).mean()))
        return 6.0 if self.flops == "6ND" or abs(mean / 6.0 - 1.0) < 0.01 else mean

    @property
    def cost(self) -> dict[str, float]:
        """How C follows from N and D, as fields of a `LossLaw`.

        Where exact FLOPs were asked for, a power of N too: it holds for sizes like those measured,
        so that what is not asked to be exact keeps to a factor, which extrapolates better.
        """
        factor = self.flops_per_param_token
        if self.flops != "exact":
            return {"flops_per_param_token": factor, "cost_exponent": 1.0}
        log_params = np.log(self.params)
        ratio, size = (
            np.log(self.budget / (self.params * self.tokens)),
            log_params - log_params.mean(),
        )
        slope = float(ratio @ size / (size @ size))
        at_one = float(np.exp(ratio.mean() - slope * log_params.mean()))
        return {"flops_per_param_token": at_one, "cost_exponent": 1.0 + slope}

    def select(self, keep: NDArray[np.bool_]) -> "Cells":
        """The points where `keep` is true; profiles are numbered anew."""
        chosen = {
            x: value[keep] for x, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        chosen["profile"] = np.unique(chosen["profile"], return_inverse=True)[1].astype(np.int64)
        return Cells(**chosen, noise=self.noise, flops=self.flops)


def cells(runs: Runs) -> Cells:
    """The points of `runs`: best-rate runs of each (budget, shape), seeds averaged."""
    table = runs.table.reset_index(drop=True)
    rates = "learning_rate" in table.columns and bool(table["learning_rate"].notna().all())
    keys = _cell_keys(table)
    best = (
        _best_rates(table, _tried(runs), keys)
        if rates and keys
        else table.assign(rate_on_edge=False, rate_at_end=False)
    )
    best = best.sort_values(["budget", "params", "tokens", "row"], kind="stable")
    trial = best["trial"].astype(str) if "trial" in best.columns else best["row"].astype(str)
    budget = best["budget"].to_numpy(dtype=np.float64)
    steps = np.diff(np.log(budget), prepend=np.log(budget[0])) > SAME_BUDGET
    return Cells(
        budget=budget,
        params=best["params"].to_numpy(dtype=np.float64),
        tokens=best["tokens"].to_numpy(dtype=np.float64),
        loss=best["loss"].to_numpy(dtype=np.float64),
        cluster=pd.factorize(trial)[0].astype(np.int64),
        profile=np.cumsum(steps).astype(np.int64),
        learning_rate=_column(best, "learning_rate"),
        batch_size=_column(best, "batch_size"),
        rate_on_edge=best["rate_on_edge"].to_numpy(dtype=bool),
        rate_at_end=best["rate_at_end"].to_numpy(dtype=bool),
        row=best["row"].to_numpy(dtype=np.int64),
        noise=known_noise(table, keys, _recipe(table)) if rates and keys else 0.0,
        flops=runs.flops,
    )


def _recipe(table: pd.DataFrame) -> list[str]:
    """Columns that are tuned within a cell."""
    return [name for name in ("learning_rate", "batch_size") if name in table.columns]


def _column(table: pd.DataFrame, name: str) -> Array:
    """A column's numbers; NaN throughout where there is none."""
    if name not in table.columns:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _cell_keys(table: pd.DataFrame) -> list[str]:
    """Columns that name a (budget, shape) of a tuned sweep; none for other people's tables."""
    if not {*SHAPE, "seed"} <= set(table.columns):
        return []
    return ["budget", *SHAPE, "params"]


def _tried(runs: Runs) -> pd.DataFrame:
    """Every trial of the file that was started with a rate, N counted as the runs count it."""
    started = runs.trials[runs.trials["learning_rate"].notna()]
    if "params_embedding" in started.columns:
        return tables.counted(started, runs.count)
    return started


def _best_rates(table: pd.DataFrame, tried: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row a cell: mean loss over seeds at the rate (and batch) whose mean is lowest.

    `tried` holds pruned trials too: a best rate next to a pruned one is not on the edge.
    """
    recipe = _recipe(table)
    others = [name for name in ("tokens", "row", "trial") if name in table.columns]
    means = (
        table.groupby([*keys, *recipe], dropna=False, sort=True)
        .agg({"loss": "mean", **dict.fromkeys(others, "first")})
        .reset_index()
    )
    best = means.loc[means.groupby(keys, dropna=False, sort=True)["loss"].idxmin()]
    lowest, highest = (
        best.merge(tried.groupby(keys, dropna=False)["learning_rate"].agg(name).reset_index(),
                   on=keys, how="left", suffixes=("", "_tried"))["learning_rate_tried"].to_numpy()
        for name in ("min", "max")
    )  # fmt: skip
    rate = best["learning_rate"].to_numpy()
    on_edge = ((rate <= lowest) | (rate >= highest)) & (lowest < highest)
    everywhere = tried["learning_rate"][tried["learning_rate"] > 0]
    least, most = everywhere.min(), everywhere.max()
    near = (most / least) ** NEAR_END
    at_end = on_edge & ((rate <= least * near) | (rate >= most / near))
    return best.assign(rate_on_edge=on_edge, rate_at_end=at_end)
