"""What `fitting.py` is timed against: the usual L-BFGS procedure, and two public packages.

The procedure is that of Besiroglu et al. (arXiv 2404.10102): the log-Huber sum by L-BFGS with
finite differences, from the 4,500 starts of Hoffmann et al. for one table, and from the optimum of
the table for each bootstrap replicate. It is timed on a sample and scaled.
"""

import importlib.util
import tempfile
import time
from functools import partial

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from analysis.laws import LossLaw
from analysis.objectives import huber
from analysis.parametric import solve
from analysis.problem import Problem

GRID = ((0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2),
        (0, 0.5, 1, 1.5, 2))  # fmt: skip
"""ln A, ln B, ln E, alpha, beta: Hoffmann et al. (arXiv 2203.15556), appendix D.3; 4,500 points."""
CONVERGED = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 10_000, "maxfun": 100_000}
"""SciPy's own tolerance is absolute below 1, and stops at .3 % above a minimum of 1e-3."""
ARRIVED = 1e-9
"""Excess of the objective, itself about 1e-3, under which a replicate is at its optimum."""


def cpu(call, repeats=1):
    """Best CPU seconds of `repeats` calls."""
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return best


def lbfgs(table, start, options=None):
    """The minimum found from one start (ln A, ln B, ln E, alpha, beta)."""
    params, tokens, loss = (np.log(column) for column in table)

    def objective(x):
        a, b, e, alpha, beta = x
        terms = np.stack([a - alpha * params, b - beta * tokens, np.full_like(params, e)])
        left = np.abs(logsumexp(terms, axis=0) - loss)
        return np.where(left <= 1e-3, 0.5 * left**2, 1e-3 * (left - 5e-4)).sum()

    return minimize(objective, start, method="L-BFGS-B", options=options).fun


def lbfgs_fit(table, sample):
    """CPU seconds of one fit, scaled from `sample` of its starts, and their best objective."""
    axes = np.meshgrid(*GRID, indexing="ij")
    grid = np.stack([axis.ravel() for axis in axes], axis=1)
    chosen = grid[np.random.default_rng(0).choice(len(grid), sample, replace=False)]
    values = []
    spent = cpu(lambda: values.extend(lbfgs(table, start) for start in chosen))
    return spent * len(grid) / sample, min(values)


def lbfgs_bootstrap(table, replicates, sample, options):
    """CPU seconds of `replicates` pairs replicates, one start each, and the share that arrived."""
    rng = np.random.default_rng(0)
    law = solve(Problem.of(*table), huber()).law
    start = np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])
    draws = rng.integers(len(table[0]), size=(sample, len(table[0])))
    tables = [tuple(column[draw] for column in table) for draw in draws]
    values = []
    spent = cpu(lambda: values.extend(lbfgs(drawn, start, options) for drawn in tables))
    lowest = [solve(Problem.of(*drawn), huber()).value for drawn in tables]
    arrived = np.mean(np.array(values) - np.array(lowest) < ARRIVED)
    return spent * replicates / sample, float(arrived)


def chinchilla(table):
    """CPU seconds and objective of one log-Huber fit by the package `chinchilla`, 243 starts."""
    if importlib.util.find_spec("chinchilla") is None:
        return None, None
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
    total = huber().penalty(predicted, np.log(table[2]))[0].sum()
    return round(spent, 2), float(total)


def simple_scaling_laws(table, replicates, sample):
    """CPU seconds of `replicates` draws by `simple-scaling-laws`, by least squares, scaled."""
    if importlib.util.find_spec("simple_scaling_laws") is None:
        return None
    import pandas as pd
    import simple_scaling_laws as tool

    names = ("model_size__n", "dataset_size__d", "test_loss__nats")
    frame = pd.DataFrame(dict(zip(names, table, strict=True)))
    frame["training_run_id"] = [str(row) for row in range(len(frame))]
    once = cpu(lambda: tool.fit(frame, n_draws=1))
    more = cpu(lambda: tool.fit(frame, n_draws=sample + 1))
    return round((more - once) * replicates / sample, 1)
