"""How fast the parametric fits are, beside an L-BFGS re-creation of the usual procedure.

The reference minimizes the same log-Huber sum from 4,500 starts with finite-difference gradients
(Besiroglu et al., arXiv 2404.10102); it is timed on a sample of starts and scaled. The
package `chinchilla` is timed where it is installed.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import tempfile
import time
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from analysis.laws import LossLaw
from analysis.objectives import huber
from analysis.parametric import solve, solve_all
from analysis.problem import FREE, Box, Problem
from analysis.uncertainty import resampled, residuals

TRUTH = LossLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)  # arXiv 2404.10102
STARTS = 4500
GRID = ((0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2),
        (0, 0.5, 1, 1.5, 2))  # fmt: skip
"""ln A, ln B, ln E, alpha, beta: Hoffmann et al. (arXiv 2203.15556), appendix D.3; 4,500 points."""


def runs(count):
    """A table like Chinchilla's: sizes and budgets of its figure 4, 2 % noise, a few outliers."""
    rng = np.random.default_rng(0)
    params = 10 ** rng.uniform(7.8, 10.2, count)
    tokens = 10 ** rng.uniform(18.2, 21.5, count) / 6 / params
    noise = np.where(rng.random(count) < 0.02, 0.1, 0.006) * rng.normal(size=count)
    return params, tokens, TRUTH.loss(params, tokens) * np.exp(noise)


def cpu(call, repeats=1):
    """Best CPU seconds of `repeats` calls."""
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return best


def bootstrap(problem, box, replicates):
    """CPU seconds of `replicates` converged pairs-bootstrap fits."""
    found = solve(problem, huber(), box)
    each = np.arange(len(problem.log_params))
    left = residuals(problem.log_loss[0], found.predicted, found.jacobian, each)

    def draws():
        rng = np.random.default_rng(0)
        for table in resampled(problem, left, each, "pairs", replicates, rng):
            solve_all(table, huber(), box)

    return cpu(draws)


def reference_seconds(table, starts):
    """CPU seconds of 4,500 starts, scaled from `starts` of them, and their best objective."""
    params, tokens, loss = (np.log(column) for column in table)

    def objective(x):
        a, b, e, alpha, beta = x
        terms = np.stack([a - alpha * params, b - beta * tokens, np.full_like(params, e)])
        left = np.abs(logsumexp(terms, axis=0) - loss)
        return np.where(left <= 1e-3, 0.5 * left**2, 1e-3 * (left - 5e-4)).sum()

    axes = np.meshgrid(*GRID, indexing="ij")
    grid = np.stack([axis.ravel() for axis in axes], axis=1)
    chosen = grid[np.random.default_rng(0).choice(len(grid), starts, replace=False)]
    values = []
    spent = cpu(
        lambda: values.extend(minimize(objective, x, method="L-BFGS-B").fun for x in chosen)
    )
    return spent * STARTS / starts, min(values)


def others(table):
    """CPU seconds and objective of the package `chinchilla`, where it is installed (243 starts)."""
    if importlib.util.find_spec("chinchilla") is None:
        return {"chinchilla_cpu_s": None, "chinchilla_objective": None}
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    grid = {"e": (0, 0.5, 1), "a": (0, 10, 20), "b": (0, 10, 20)}
    grid |= {"alpha": (0.2, 0.5, 0.8), "beta": (0.2, 0.5, 0.8)}
    with tempfile.TemporaryDirectory() as folder:
        tool = Chinchilla(
            folder,
            param_grid=grid,
            loss_fn=partial(log_huber, delta=1e-3),
            seed_ranges={"C": (1e18, 1e19), "N_to_D": (10, 100)},
            log_level=50,
        )
        for n, d, loss in zip(*table, strict=True):
            tool.database.append(C=6 * n * d, N=n, D=d, loss=loss)
        tool.visualizer.optim = lambda *_, **__: None
        spent = cpu(lambda: tool.fit(parallel=False))
    found = LossLaw(E=tool.E, A=tool.A, B=tool.B, alpha=tool.alpha, beta=tool.beta)
    predicted = np.log(np.asarray(found.loss(table[0], table[1]), dtype=float))
    total = huber().stages[-1](predicted, np.log(table[2]))[0].sum()
    return {"chinchilla_cpu_s": round(spent, 2), "chinchilla_objective": float(total)}


def growth(counts):
    """CPU seconds of one fit at each number of rows."""
    return {str(n): round(cpu(lambda n=n: solve(Problem.of(*runs(n)), huber())), 4) for n in counts}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer reference starts")
    quick = parser.parse_args().quick
    table = runs(240)
    problem = Problem.of(*table)
    one = cpu(lambda: solve(problem, huber()), repeats=20)
    reference, best = reference_seconds(table, 25 if quick else 150)
    mine = solve(problem, huber()).value
    boot = bootstrap(problem, FREE, 4000)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(f"objective: ours {mine:.12g}, best of the reference's starts {best:.12g}")
    figures = {
        "fit_ms": round(1e3 * one, 2),
        "boot4000_cpu_s": round(boot, 2),
        "ratio_vs_lbfgs": round(reference / one, 0),
        "coupled_boot4000_cpu_s": round(bootstrap(problem, Box(coupled=True), 4000), 2),
        "lbfgs_4500_starts_cpu_s": round(reference, 1),
        "fit_cpu_s_by_rows": growth((240, 2400, 24000, 240000)),
        "boot100_cpu_s_by_rows": {
            str(n): round(bootstrap(Problem.of(*runs(n)), FREE, 100), 2) for n in (240, 2400, 24000)
        },
        **others(table),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit.stdout.strip(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
