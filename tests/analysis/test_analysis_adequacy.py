"""A law that misses its profiles is said to, and not followed."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.adequacy import lack_of_fit
from analysis.cells import cells
from analysis.fit import fit
from analysis.laws import LossLaw
from analysis.losspower import LossPowers
from analysis.objectives import log_squares
from analysis.parametric import solve
from analysis.predict import predict
from analysis.problem import Problem
from analysis.runs import Runs

LAW = LossLaw(E=1.2, A=30.0, B=60.0, alpha=0.35, beta=0.37)


def noisy(bend, seed=0):
    """Profiles whose loss leaves the law by `bend` · ln(budget) · ln(size over optimum)."""
    rng, rows = np.random.default_rng(seed), []
    for step, budget in enumerate(np.geomspace(1e10, 1e13, 5)):
        for offset in np.linspace(-1.8, 1.8, 8):
            n = LAW.n_opt(budget) * np.exp(offset)
            loss = LAW.loss(n, budget / 6 / n) * np.exp(0.003 * rng.normal())
            rows.append((budget, n, loss * (1 + bend * (step % 2 - 0.5) * offset)))
    return Runs.of(pd.DataFrame(rows, columns=["C", "N", "L"]))


def test_the_test_has_its_size():
    """Under the law p is uniform: about a tenth of tables lie below .1."""
    below = []
    for seed in range(200):
        points = cells(noisy(0.0, seed))
        table = Problem.of(points.params, points.tokens, points.loss)
        below.append(lack_of_fit(points, solve(table, log_squares()).law) < 0.1)
    assert 0.04 < np.mean(below) < 0.17


def test_a_law_that_fits_is_followed():
    found = fit(noisy(0.0), replicates=50)
    assert found["chinchilla"].status.state == "ok"
    assert found.chosen in ("chinchilla", "skaling")


def test_a_law_that_misses_is_not():
    runs = noisy(0.03)
    found = fit(runs, replicates=50)
    assert found["chinchilla"].status.state == "doubtful"
    assert "F test" in found["chinchilla"].status.reason
    assert found.chosen == "cubic"
    predicted = predict(runs, found, 1e13)
    assert any(
        w.startswith("cubic gives sizes, not losses: the loss is from L(C)")
        for w in predicted.warnings
    )
    (power,) = [one for one in found.powers.fits if one.variable == "budget" and not one.floor]
    assert predicted.loss.low < predicted.loss.value < predicted.loss.high
    assert predicted.loss.value >= power.predict(1e13)  # a floor, if any, lifts it
    without = replace(found, powers=LossPowers())
    (told,) = [w for w in predict(runs, without, 1e13).warnings if "gives sizes, not losses" in w]
    assert re.search("the loss is from chinchilla[a-z_]*", told)


def test_scattered_tables_have_no_profiles_to_test_against():
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 9, 20), 10 ** rng.uniform(9, 11, 20)
    table = pd.DataFrame({"N": n, "D": d, "L": LAW.loss(n, d)})
    assert lack_of_fit(cells(Runs.of(table)), LAW) is None
