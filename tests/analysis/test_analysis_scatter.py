"""Noise of each run, and what a cell's share: the algebra is a dense matrix's, both come back."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from analysis.scatter import DOUBT, EXPECTED, Scatter, estimated

RNG = np.random.default_rng(0)
CELL = np.array([0, 0, 1, 2, 2, 2])
SCATTER = Scatter(own=RNG.uniform(0.5, 2.0, 6), shared=1.3, counts=np.bincount(CELL))
DENSE = np.diag(SCATTER.own**2) + 1.3**2 * (CELL[:, None] == CELL)


def test_its_algebra_is_that_of_the_dense_covariance():
    rows = RNG.normal(size=(6, 4))
    expected = rows.T @ np.linalg.solve(DENSE, rows)
    assert SCATTER.gram(rows) == pytest.approx(expected, rel=1e-12)
    white = SCATTER.whitened(rows)
    assert white.T @ white == pytest.approx(expected, rel=1e-12)
    assert SCATTER.log_determinant == pytest.approx(np.linalg.slogdet(DENSE)[1], rel=1e-12)


def test_runs_count_for_their_cells_where_all_is_shared_and_for_themselves_where_nothing_is():
    assert SCATTER.worth(1e-9) == pytest.approx(3)
    assert SCATTER.worth(1e9) == pytest.approx(6)
    assert 3 < SCATTER.worth(1.3) < 6


@pytest.mark.parametrize(("noise", "shared"), [(0.002, 0.012), (0.012, 0.006), (0.005, 0.005)])
def test_both_come_back(noise, shared):
    rng = np.random.default_rng(1)
    cell = np.repeat(np.arange(200), 4)
    slope = rng.normal(size=(800, 3))
    left = shared * rng.normal(size=200)[cell] + noise * rng.normal(size=800)
    left -= slope @ np.linalg.lstsq(slope, left, rcond=None)[0]
    found = estimated(
        left, slope, np.zeros(800), np.bincount(cell), np.eye(3) * 1e-9, np.zeros(3)
    )  # fmt: skip
    assert found == pytest.approx((noise, shared), rel=0.25)


def test_one_run_a_cell_cannot_tell_them_apart_and_keeps_to_what_is_expected():
    left = 0.02 * np.random.default_rng(2).normal(size=40)
    noise, shared = estimated(
        left, np.ones((40, 1)), np.zeros(40), np.ones(40, int), np.eye(1) * 1e-9, np.zeros(1)
    )
    assert np.hypot(noise, shared) == pytest.approx(left.std(), rel=0.1)
    assert min(noise, shared) > min(EXPECTED)


def test_its_likelihood_is_that_of_the_runs_with_the_point_integrated_out():
    rng = np.random.default_rng(3)
    cell, drift = np.repeat(np.arange(10), 3), rng.uniform(0.0, 0.01, 30)
    slope, prior, away = rng.normal(size=(30, 5)), np.eye(5) / 0.01**2, np.full(5, 0.02)
    left = 0.005 * rng.normal(size=10)[cell] + 0.004 * rng.normal(size=30)
    found = estimated(left, slope, drift, np.bincount(cell), prior, prior @ away)

    def unlikely(logs):
        noise, shared = np.exp(2 * logs)
        dense = np.diag(noise + drift**2) + shared * (cell[:, None] == cell)
        dense += slope @ np.linalg.solve(prior, slope.T)
        doubt = (((logs - np.log(EXPECTED)) / DOUBT) ** 2).sum()
        return doubt - 2 * multivariate_normal.logpdf(left, slope @ away, dense)

    wanted = np.exp(minimize(unlikely, np.log(EXPECTED), method="Nelder-Mead").x)
    assert found == pytest.approx(wanted, rel=0.02)
