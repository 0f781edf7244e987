"""A known law → a run table: for tests, for plans, for anyone who doubts a fit.

`python -m analysis.simulate data/isoflops_curves.json` writes the profiles that are shipped.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.laws import LossLaw
from analysis.runs import frame

SHIPPED = LossLaw(E=1.9, A=350.0, B=900.0, alpha=0.33, beta=0.31)
"""The law behind data/isoflops_curves.json: round numbers of nobody's."""
SHIPPED_BUDGETS = (1e17, 3e17, 1e18, 3e18, 1e19, 3e19, 1e20)
SHIPPED_SIZES = (0.1, 0.2, 0.4, 0.7, 1.2, 2.2, 4.0, 8.0, 15.0)
"""Model sizes of each budget, as multiples of its best one: no size is the best one."""
LOSS_DIGITS = 12
"""Significant digits written: fewer than machines' powers agree to, so that bytes are the same."""
RUNG = 4
"""A pruned trial has spent one part in this many of its budget."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the learning rate moves the loss: a parabola in ln rate around the best one."""

    rates: tuple[float, ...] = (0.01,)
    """Peak rates tried in every (budget, size)."""
    best: float = 0.01
    """Best rate at N = `reference`."""
    exponent: float = 0.0
    """The best rate goes as N to this power."""
    reference: float = 1e6
    curvature: float = 0.0
    """Relative loss added at a rate e times the best."""

    def penalty(self, rate: float, params: float) -> float:
        """Relative loss added by `rate`."""
        best = self.best * (params / self.reference) ** self.exponent
        return self.curvature * float(np.log(rate / best)) ** 2


def simulate(
    law: LossLaw,
    budgets: Sequence[float],
    params: Sequence[float],
    *,
    tuning: Tuning | None = None,
    seeds: int = 1,
    noise: float = 0.0,
    kept: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Runs of every size in `params` at every budget, rate and seed, as our run table.

    Tokens are what the law's cost lets a budget buy. `noise` is the standard deviation of ln loss;
    `kept` rates a (budget, size, seed) complete and the worse ones are pruned (None: all complete).
    """
    rng = np.random.default_rng(seed)
    tuning = tuning or Tuning()
    rows: list[dict[str, object]] = []
    for budget, size, number in product(budgets, params, range(seeds)):
        cell = [_row(law, budget, size, rate, tuning, number, noise, rng) for rate in tuning.rates]
        cell.sort(key=lambda row: float(row["loss"]))  # pyrefly: ignore
        rows += cell[:kept] + [_pruned(row) for row in (cell[kept:] if kept is not None else [])]
    return frame(rows)


def _row(
    law: LossLaw, budget: float, size: float, rate: float, tuning: Tuning, number: int,
    noise: float, rng: np.random.Generator,
) -> dict[str, object]:  # fmt: skip
    tokens = float(law.tokens(budget, size))
    clean = float(law.loss(size, tokens))
    loss = clean * (1 + tuning.penalty(rate, size)) * float(np.exp(noise * rng.normal()))
    return {
        "trial": f"{budget:.4g}/{size:.6g}/{rate:.4g}/{number}", "seed": number, "budget": budget,
        "params": round(size), "params_embedding": 0, "params_head": 0, "learning_rate": rate,
        "flops": round(budget), "tokens": round(tokens), "loss": loss, "status": "completed",
        "backend": "simulate",
    }  # fmt: skip


def _pruned(row: dict[str, object]) -> dict[str, object]:
    spent = {name: int(row[name]) // RUNG for name in ("flops", "tokens")}  # pyrefly: ignore
    return {**row, **spent, "status": "pruned", "reason": "worse than its rung"}


def isoflop_records(
    law: LossLaw, budgets: Sequence[float], params: Sequence[float]
) -> list[dict[str, float]]:
    """Noise-free profiles in the course's own form: `parameters compute_budget final_loss`."""
    return [
        {
            "parameters": float(size),
            "compute_budget": float(budget),
            "final_loss": float(law.loss(size, law.tokens(budget, size))),
        }
        for budget, size in product(budgets, params)
    ]


def shipped() -> str:
    """The text of data/isoflops_curves.json: noise-free profiles of `SHIPPED`."""
    records = [
        {
            "parameters": int(record["parameters"]),
            "compute_budget": record["compute_budget"],
            "final_loss": float(f"{record['final_loss']:.{LOSS_DIGITS}g}"),
        }
        for budget in SHIPPED_BUDGETS
        for record in isoflop_records(SHIPPED, [budget], _sizes(budget))
    ]
    lines = ",\n".join(f"  {json.dumps(record)}" for record in records)
    return f"[\n{lines}\n]\n"


def _sizes(budget: float) -> list[int]:
    """Whole numbers of weights around the best one, to four digits, as people choose them."""
    best = float(SHIPPED.n_opt(budget))
    return [int(float(f"{share * best:.4g}")) for share in SHIPPED_SIZES]


def main() -> None:
    """Write the shipped profiles where the person says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the JSON file to write")
    parser.parse_args().path.write_text(shipped(), encoding="utf-8")


if __name__ == "__main__":
    main()
