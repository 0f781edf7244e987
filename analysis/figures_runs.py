"""Runs in pictures, before any law: rates tried, curves of training, what pruning saved."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import wording
from analysis.figures import COMPUTE, LOSS, PARAMS
from analysis.runs import Runs
from analysis.style import BLUE, GRID, MUTED, EndLabel, budget_colors, label_ends, log_axis

Paint: TypeAlias = Callable[[Axes], Axes]
"""What fills an axes."""

RATE = "peak learning rate η"


def learning_rates(runs: Runs, ax: Axes, *, budget: float) -> Axes:
    """What a wrong rate costs at one budget: loss above the size's best, a line a size.

    Sizes trained at one rate alone are left out. A ring marks the best rate of each size; the
    smallest and the largest size are named.
    """
    rows = runs.table[runs.table["budget"] == budget]
    tried = rows.groupby(["params", "learning_rate"], as_index=False)["loss"].mean()
    rates = tried["params"].value_counts()
    sizes = sorted(rates[rates > 1].index)
    colors = budget_colors(sizes)
    ends = []
    for size in sizes:
        line = tried[tried["params"] == size]
        excess = line["loss"] - line["loss"].min()
        best = line.loc[line["loss"].idxmin(), "learning_rate"]
        name = f"{wording.count(size)} parameters"
        ax.plot(line["learning_rate"], excess, "o-", ms=3, lw=1, color=colors[size], label=name)
        ax.plot(best, 0, "o", ms=8, mfc="none", mec=colors[size])
        end = (float(line["learning_rate"].iloc[-1]), float(excess.iloc[-1]))
        ends.append(EndLabel(*end, wording.count(size), colors[size]))
    log_axis(ax, "x", RATE, wording.rate)
    ax.set_ylabel("loss above best, nat/token")
    ax.set_title(f"{wording.flops(budget)} FLOP")
    label_ends(ax, ends[:1] + ends[1:][-1:])
    return ax


def growing_profile(completed: pd.DataFrame, ax: Axes, *, budget: float) -> Axes:
    """Loss against N at one budget of a sweep that still runs: every completed run, and a parabola
    through the best of each size once it has a choice.

    `completed` has columns `params learning_rate loss`, one row a run.
    """
    tried = completed.groupby(["params", "learning_rate"], as_index=False)["loss"].mean()
    best = tried.groupby("params")["loss"].min()
    sizes = best.index.to_numpy(dtype=np.float64)
    ax.plot(completed["params"], completed["loss"], "o", ms=3, color=MUTED.light, alpha=0.5)
    ax.plot(sizes, best, "o", ms=5, color=BLUE.light)
    if len(sizes) > 3:
        curve = np.polynomial.Polynomial.fit(np.log(sizes), best.to_numpy(), 2)
        x = np.geomspace(sizes[0], sizes[-1], 80)
        ax.plot(x, curve(np.log(x)), "-", lw=1.1, color=BLUE.light)
    runs, many = len(completed), len(sizes)
    counts = f"{runs} completed run{'s' * (runs > 1)} at {many} size{'s' * (many > 1)}"
    ax.set_title(f"{wording.flops(budget)} FLOP: {counts}")
    log_axis(ax, "x", PARAMS, wording.count)
    ax.set_ylabel(LOSS)
    return ax


def training_curves(runs: Runs, ax: Axes) -> Axes:
    """Held-out loss against FLOPs spent, a line a trial, a color a budget.

    Raises:
        ValueError: the runs came without curves.
    """
    if runs.curves is None:
        raise ValueError("these runs came without curves")
    budget_of = runs.trials.drop_duplicates("trial").set_index("trial")["budget"].astype(float)
    curves = runs.curves.assign(budget=runs.curves["trial"].map(budget_of))
    colors = budget_colors(budget_of)
    ends = []
    for budget in colors:
        rows = curves[curves["budget"] == budget]
        for trial, curve in rows.groupby("trial"):
            ax.plot(
                curve["flops"], curve["loss"], lw=0.6, alpha=0.6, color=colors[budget],
                label=f"trial {trial}",
            )  # fmt: skip
        last = rows[rows["flops"] == rows["flops"].max()]
        end = (float(last["flops"].iloc[0]), float(last["loss"].min()))
        ends.append(EndLabel(*end, wording.flops(budget), colors[budget]))
    log_axis(ax, "x", COMPUTE, wording.flops)
    ax.set_ylabel(LOSS)
    label_ends(ax, ends)
    return ax


def spending(runs: Runs) -> pd.DataFrame:
    """FLOPs of every budget: spent by completed runs, spent by stopped ones, and not spent.

    One row a budget, columns `budget completed stopped saved`.
    """
    trials = runs.trials.astype({"budget": "float64", "flops": "float64"}).fillna({"flops": 0.0})
    stopped = trials["status"] != "completed"
    parts = pd.DataFrame(
        {
            "budget": trials["budget"],
            "completed": trials["flops"].where(~stopped, 0.0),
            "stopped": trials["flops"].where(stopped, 0.0),
            "saved": (trials["budget"] - trials["flops"]).where(stopped, 0.0),
        }
    )
    return parts.groupby("budget", as_index=False).sum()


def pruning(runs: Runs, ax: Axes) -> Axes:
    """Where each budget's compute went, in percent of what all its trials asked for.

    Spent by completed runs, spent by stopped ones, saved by stopping them.
    """
    table = spending(runs)
    parts = table[["completed", "stopped", "saved"]]
    shares = 100 * parts.div(parts.sum(axis=1), axis=0)
    places = np.arange(len(table))
    left = np.zeros(len(table))
    for part, color in (("completed", BLUE.light), ("stopped", MUTED.light), ("saved", GRID.light)):
        ax.barh(places, shares[part], left=left, color=color, label=part, height=0.6)
        left += shares[part].to_numpy()
    ax.set_yticks(places, [wording.flops(budget) for budget in table["budget"]])
    ax.set_ylabel("budget a trial, FLOP")
    ax.set_xlabel("share of the compute asked for, %")
    ax.grid(visible=False, axis="y")
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0, fontsize=9)
    return ax
