"""A sweep that never ran, its fits written by hand: what figures and reports are tested on."""

import numpy as np
import pandas as pd

from analysis.comparison import Conventions, Exponent
from analysis.fit import Disagreement, Fits, Validation
from analysis.laws import AllocationLaw, LossLaw
from analysis.predict import Estimate, Prediction, ProposedShape
from analysis.report_page import Story
from analysis.results import Fit, FitStatus, Point
from analysis.runs import CURVE_COLUMNS, Runs, frame

BUDGETS = (3e10, 1e11, 3e11)
SHAPES = ((1, 8), (1, 16), (1, 32), (2, 32), (2, 64), (3, 96))
RATES = (4e-3, 1.6e-2, 6.4e-2)
LAW = LossLaw(E=0.9, A=20.0, B=60.0, alpha=0.34, beta=0.30)
ALLOCATION = AllocationLaw(n_coef=0.5, a=0.41, d_coef=1 / 3, b=0.59)
OK = FitStatus(state="ok")


def _row(budget, layers, width, rate):
    params, embedding = 12 * layers * width**2 + 256 * width, 320 * width
    tokens = budget / 6 / params
    pruned = rate == RATES[-1]
    loss = float(LAW.loss(params, tokens)) + 0.05 * np.log(rate / RATES[1]) ** 2
    return {
        "sweep": "told", "trial": f"{budget:g}-{layers}x{width}-{rate}", "parent": "", "seed": 0,
        "budget": budget, "d_model": width, "num_layers": layers, "num_heads": 1,
        "d_ff": 4 * width, "vocab_size": 256, "context_length": 64,
        "params": params + embedding, "params_embedding": embedding, "params_head": 256 * width,
        "learning_rate": rate, "batch_size": 4, "flops": int(budget / 4 if pruned else budget),
        "flops_charged": int(budget / 4 if pruned else budget), "tokens": int(tokens),
        "steps": 1000, "seconds": 30.0, "loss": loss + pruned, "loss_se": 0.004,
        "status": "pruned" if pruned else "completed", "reason": "slow | late" if pruned else "",
        "device": "cpu", "started": pd.Timestamp("2026-01-01", tz="UTC"),
    }  # fmt: skip


def sweep():
    """Three budgets, six shapes, three rates; the highest rate is pruned at a quarter."""
    rows = [_row(budget, *shape, rate) for budget in BUDGETS for shape in SHAPES for rate in RATES]
    curves = [
        {"trial": row["trial"], "step": step, "tokens": step, "flops": int(share * row["flops"]),
         "loss": row["loss"] + 1 - share, "learning_rate": 0.01}
        for row in rows for step, share in ((100, 0.5), (200, 1.0))
    ]  # fmt: skip
    return Runs.of(frame(rows), source="runs/told", curves=frame(curves, CURVE_COLUMNS))


def others():
    """Somebody's table of C, N and L."""
    rows = [(c, n, float(LAW.loss(n, c / 6 / n))) for c in BUDGETS for n in (3e3, 1e4, 3e4, 1e5)]
    return Runs.of(pd.DataFrame(rows, columns=["C", "N", "L"]), source="theirs.csv")


def fits(runs):
    """Two approaches fitted, one doubtful, one skipped."""
    spread = np.random.default_rng(0).normal(0, 0.1, 200)
    points = tuple(
        Point(budget=c, params=float(ALLOCATION.n_opt(c)), tokens=float(ALLOCATION.d_opt(c)),
              loss=float(LAW.loss(ALLOCATION.n_opt(c), ALLOCATION.d_opt(c))))
        for c in BUDGETS
    )  # fmt: skip
    allocated = AllocationLaw(
        n_coef=0.5 * np.exp(spread), a=0.41, d_coef=np.exp(-spread) / 3, b=0.59
    )
    lossy = LossLaw(E=0.9 + spread / 10, A=20.0, B=60.0, alpha=0.34, beta=0.30)
    approaches = (
        Fit(name="parabola", law=ALLOCATION, status=OK, points=points, draws=allocated,
            intervals={"a": (0.386, 0.434)}),
        Fit(name="akima", law=None,
            status=FitStatus(state="skipped", reason="needs five sizes in each profile")),
        Fit(name="argmin", law=AllocationLaw(n_coef=0.4, a=0.42, d_coef=0.4, b=0.58),
            status=FitStatus(state="doubtful", reason="three budgets only"), points=points),
        Fit(name="chinchilla", law=LAW, status=OK, points=points, draws=lossy, objective=1e-3,
            objective_name="sum of Huber on log loss", intervals={"E": (0.88, 0.92)},
            warnings=("E lies far below every loss",)),
    )  # fmt: skip
    return Fits(
        n=len(runs.table), dropped=runs.dropped, approaches=approaches, chosen="parabola",
        chosen_because="it foretells the largest budget best", source=runs.source,
        disagreement=(Disagreement(budget=1e13, ratio=1.9, lowest="argmin", highest="chinchilla",
                                   extra_flops={"argmin": 0.03, "parabola": 0.0}),),
        validation=(Validation(approach="chinchilla", error=0.004, folds=2),),
        conventions=Conventions(
            left_out="",
            exponents=(
                Exponent(count="non_embedding", flops="6ND", approach="parabola", a=0.4,
                         interval=(0.38, 0.42), reason="few sizes"),
                Exponent(count="transformer", flops="exact", approach="parabola", a=None,
                         interval=None, reason="no budgets"),
            ),
        ),
    )  # fmt: skip


def prediction(budget=1e13):
    """An answer whose every number is told apart from the others."""
    return Prediction(
        budget=budget, params=Estimate(value=111e3, low=92e3, high=133e3),
        tokens=Estimate(value=15.2e6, low=12.1e6, high=17.3e6),
        loss=Estimate(value=1.311, low=1.287, high=1.335),
        shape=ProposedShape(d_model=64, num_layers=2, num_heads=4, d_ff=256, params=114_688),
        shape_interval=tuple(
            ProposedShape(d_model=width, num_layers=2, num_heads=1, d_ff=4 * width, params=1)
            for width in (56, 72)
        ),
        learning_rate=0.021, learning_rate_interval=(0.015, 0.03), batch_size=8,
        approach="parabola",
        warnings=("the budget lies 33 times beyond the largest that was run",),
    )  # fmt: skip


def story(runs=None, asked=True):
    """Everything a report tells."""
    runs = runs or sweep()
    return Story(runs=runs, fits=fits(runs), prediction=prediction() if asked else None)
