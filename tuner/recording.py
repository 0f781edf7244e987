"""Recorded runs as answers to questions: the run of anybody's table that lies nearest in log space.

Needs neither torch nor ray.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import runs, tables
from analysis.runs import RunTableError
from tuner.config import Sweep
from tuner.errors import ConfigError
from tuner.sections import Replay

PROGRESS = {"tokens": "tokens", "flops": "flops", "step": "steps"}
"""Columns of a curve that tell how far a run is, in the order in which they are looked for, and the
columns of the run table that tell how far it went."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """One completed run."""

    key: str
    budget: float
    """FLOP."""
    params: float
    """N as the table's fits count it: our own tables without embeddings."""
    learning_rate: float | None
    """None if the table names none."""
    seed: int
    size: tuple[int, int] | None
    """(num_layers, d_model), where the table names them."""
    loss_se: float
    """nat/token; 0 where the table names none."""
    seconds: float
    """Spent on training steps; 0 where the table names none."""
    shares: NDArray[np.float64]
    """(n,) shares of the run at which its loss is known, rising to 1."""
    losses: NDArray[np.float64]
    """(n,) nat/token."""

    def loss(self, share: float) -> float:
        """Loss at a share of the run, linear between what is known and level before it."""
        return float(np.interp(share, self.shares, self.losses))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One recorded run, or two with weights that sum to 1."""

    runs: tuple[Recorded, ...]
    weights: tuple[float, ...]

    def loss(self, share: float) -> float:
        """Loss at a share of the run, nat/token."""
        return self._mean([run.loss(share) for run in self.runs])

    @property
    def loss_se(self) -> float:
        """Standard error of the losses, nat/token."""
        return self._mean([run.loss_se for run in self.runs])

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self._mean([run.seconds for run in self.runs])

    @property
    def told(self) -> str:
        """Which runs answer, in words."""
        return " and ".join(run.key for run in self.runs)

    def _mean(self, values: Sequence[float]) -> float:
        return math.fsum(w * value for w, value in zip(self.weights, values, strict=True))


class NothingNearError(Exception):
    """No recorded run lies near enough to a question."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """The completed runs of a table."""

    runs: tuple[Recorded, ...]
    within: float
    """Largest factor between what is asked and what was recorded."""
    fingerprint: str
    """Of the files."""

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(num_layers, d_model) of every size recorded; empty if the table names none."""
        return tuple(sorted({run.size for run in self.runs if run.size is not None}))

    def holds(self, budget: float, params: float) -> bool:
        """Whether some run is near enough in budget and size."""
        off = np.abs(self._places[:, :2] - np.log([budget, params]))
        return bool((off.max(axis=1) <= math.log(self.within)).any())

    def nearest(self, budget: float, params: float, rate: float, seed: int) -> Answer:
        """The nearest run; of runs that differ in their seed alone the one with this seed.

        Raises:
            NothingNearError: nothing is within the factor stated.
        """
        asked = (budget, params, rate)
        found, off = self._closest(asked, seed)
        self._refuse(asked, found, off)
        return Answer(runs=(found,), weights=(1.0,))

    def interpolated(self, budget: float, params: float, rate: float, seed: int) -> Answer:
        """Between the learning rates around `rate`, at the nearest run's budget, size and seed.

        Outside the rates recorded there, the nearest run.

        Raises:
            NothingNearError: nothing is within the factor stated, between two rates in budget and
                size alone.
        """
        asked = (budget, params, rate)
        found, off = self._closest(asked, seed)
        there = (found.budget, found.params, found.seed)
        rates = {
            run.learning_rate: run
            for run in self.runs
            if (run.budget, run.params, run.seed) == there and run.learning_rate is not None
        }
        below = max((known for known in rates if known <= rate), default=None)
        above = min((known for known in rates if known >= rate), default=None)
        if below is None or above is None or below == above:
            return self.nearest(budget, params, rate, seed)
        self._refuse(asked, found, off[:2])
        weight = math.log(rate / below) / math.log(above / below)
        return Answer(runs=(rates[below], rates[above]), weights=(1 - weight, weight))

    def _closest(
        self, asked: tuple[float, float, float], seed: int
    ) -> tuple[Recorded, NDArray[np.float64]]:
        """The nearest run and (3,) how far it is from budget, N and rate, in e-folds."""
        off = np.nan_to_num(np.abs(self._places - np.log(asked)))
        distances = np.sqrt((off**2).sum(axis=1))
        best = min(
            range(len(self.runs)), key=lambda i: (distances[i], self.runs[i].seed != seed, i)
        )
        return self.runs[best], off[best]

    def _refuse(
        self, asked: tuple[float, float, float], found: Recorded, off: NDArray[np.float64]
    ) -> None:
        if off.max() > math.log(self.within):
            raise NothingNearError(
                f"nothing recorded within a factor of {self.within:g} of budget {asked[0]:g}, "
                f"N {asked[1]:g}, learning rate {asked[2]:g}; nearest is {found.key}: budget "
                f"{found.budget:g}, N {found.params:g}, learning rate {found.learning_rate}"
            )

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        """(n, 3) ln of budget, N and learning rate; NaN where there is no rate."""
        return np.log([
            (run.budget, run.params, np.nan if run.learning_rate is None else run.learning_rate)
            for run in self.runs
        ])  # fmt: skip


def of(sweep: Sweep) -> Recording:
    """What `sweep` is answered from.

    Raises:
        ConfigError: the record cannot answer it.
        RunTableError: the table cannot be read.
    """
    found = _read(sweep.replay)
    faults = []
    if sweep.pruning.rungs and all(len(run.shares) < 2 for run in found.runs):
        faults.append(
            f"replay.table: {sweep.replay.table} has no curves, so nothing is known before a run's "
            "end; name them with replay.curves, or set pruning.rungs = []"
        )
    if sweep.search.trials > 1 and all(run.learning_rate is None for run in found.runs):
        faults.append(
            f"search.trials: {sweep.search.trials}, but {sweep.replay.table} names no learning "
            "rates; set 1, or name theirs with replay.columns"
        )
    if faults:
        raise ConfigError("\n".join(f"{sweep.name}: {fault}" for fault in faults))
    return found


@cache
def _read(section: Replay) -> Recording:
    names = dict(pair.split("=", 1) for pair in section.columns)
    table_path, curves_path = tables.locate(Path(section.table))
    if section.curves:
        curves_path = Path(section.curves)
    found = runs.Runs.of(tables.load(table_path), source=str(table_path), column_map=names)
    curves = {} if curves_path is None else _curves(curves_path, names)
    paths = [path for path in (table_path, curves_path) if path is not None]
    content = hashlib.sha256(b"".join(path.read_bytes() for path in paths))
    return Recording(
        runs=tuple(_recorded(row, curves) for row in found.table.to_dict("records")),
        within=section.within,
        fingerprint=content.hexdigest()[:12],
    )


def _curves(path: Path, names: dict[str, str]) -> "dict[str, pd.Series[float]]":
    """The curve of each trial, its index the column that tells how far it was."""
    table = tables.load(path).rename(columns=names)
    done = next((name for name in PROGRESS if name in table.columns), None)
    absent = [name for name in ("trial", "loss") if name not in table.columns]
    if done is None:
        absent.append(" or ".join(PROGRESS))
    if absent:
        raise RunTableError([
            f"{path}: no column {name}; name theirs with replay.columns" for name in absent
        ])  # fmt: skip
    known = table[np.isfinite(table["loss"].astype("float64"))].set_index(done)
    return {str(trial): curve["loss"].sort_index() for trial, curve in known.groupby("trial")}


def _recorded(row: Mapping[Any, Any], curves: "dict[str, pd.Series[float]]") -> Recorded:
    key = str(row.get("trial", f"row {row['row']}"))
    shares, losses = _before_the_end(row, curves.get(key))
    return Recorded(
        key=key,
        budget=row["budget"],
        params=row["params"],
        learning_rate=_number(row, "learning_rate"),
        seed=int(_number(row, "seed") or 0),
        size=_size(row),
        loss_se=_number(row, "loss_se") or 0.0,
        seconds=_number(row, "seconds") or 0.0,
        shares=np.append(shares, 1.0),
        losses=np.append(losses, row["loss"]),
    )


def _before_the_end(
    row: Mapping[Any, Any], curve: "pd.Series[float] | None"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares and losses of a run's curve; its end is told by its row."""
    if curve is None:
        return np.empty(0), np.empty(0)
    done = np.asarray(curve.index, dtype=np.float64)
    losses = np.asarray(curve, dtype=np.float64)
    shares = done / max(float(done[-1]), _number(row, PROGRESS[str(curve.index.name)]) or 0.0)
    return shares[shares < 1], losses[shares < 1]


def _number(row: Mapping[Any, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or pd.isna(value) else float(value)


def _size(row: Mapping[Any, Any]) -> tuple[int, int] | None:
    layers, width = _number(row, "num_layers"), _number(row, "d_model")
    return None if layers is None or width is None else (int(layers), int(width))
