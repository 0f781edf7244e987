"""L(N), L(D), L(C): power laws of one quantity."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import losspower
from analysis.cells import cells
from analysis.fit import Fits, fit
from analysis.laws import LossLaw
from analysis.losspower import LossPower, frontier, loss_power, loss_powers
from analysis.results import FitError
from analysis.runs import Runs

LAW = LossLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)


def grid(noise=0.0, levels=6):
    rng = np.random.default_rng(1)
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, levels),
                                           np.geomspace(1e8, 1e12, levels)))  # fmt: skip
    loss = LAW.loss(n, d) * np.exp(noise * rng.normal(size=len(n)))
    return [{"N": a, "D": b, "C": 6 * a * b, "L": c} for a, b, c in zip(n, d, loss, strict=True)]


def runs(rows):
    import pandas as pd

    return Runs.of(pd.DataFrame(rows))


def powers(rows, replicates=0):
    return loss_powers(cells(runs(rows)), replicates, np.random.SeedSequence(0))


@settings(deadline=None)
@given(
    E=st.floats(0.5, 5), amplitude=st.floats(0.05, 5), exponent=st.floats(0.05, 1.2),
    levels=st.integers(4, 12), start=st.floats(1e3, 1e20),
)  # fmt: skip
def test_a_law_over_a_floor_comes_back(E, amplitude, exponent, levels, start):
    x = start * np.geomspace(1, 1e4, levels)
    loss = E + amplitude * (x / start) ** -exponent
    found = loss_power(x, loss, floor=True)
    assert pytest.approx(E, rel=1e-6) == found.E
    assert found.exponent == pytest.approx(exponent, rel=1e-6)
    assert found.loss(x[-1] * 10) == pytest.approx(
        E + amplitude * (10 * x[-1] / start) ** -exponent, rel=1e-8
    )


def test_a_law_without_a_floor_is_the_line_in_logarithms():
    x = np.geomspace(1e6, 1e10, 8)
    loss = 400 * x**-0.35 * np.exp(0.01 * np.random.default_rng(0).normal(size=8))
    found = loss_power(x, loss, floor=False)
    slope, level = np.polyfit(np.log(x), np.log(loss), 1)
    assert (found.E, found.coef, found.exponent) == pytest.approx((0, np.exp(level), -slope))


def test_too_few_levels_are_refused_in_words():
    x = np.geomspace(1, 10, 3)
    with pytest.raises(FitError, match="with a floor needs at least 4 levels, got 3"):
        loss_power(x, x**-0.1, floor=True)
    with pytest.raises(FitError, match="without a floor needs at least 3 levels, got 2"):
        loss_power(x[:2], x[:2] ** -0.1, floor=False)


def test_a_grid_gives_the_exponents_of_its_law():
    """Along its edges a grid holds the other quantity, whose term joins the floor."""
    found = {one.variable: one for one in powers(grid()).fits if one.floor}
    assert found["params"].params["exponent"] == pytest.approx(LAW.alpha, rel=1e-6)
    assert found["tokens"].params["exponent"] == pytest.approx(LAW.beta, rel=1e-6)
    assert pytest.approx(LAW.E + LAW.B / 1e12**LAW.beta, rel=1e-6) == found["params"].law.E
    for one in found.values():
        assert one.certificate.positive_definite
        assert one.certificate.gradient < 1e-8
        assert one.certificate.condition < 1e12


def test_profiles_give_a_law_of_compute_alone(tuned_runs):
    found = loss_powers(cells(tuned_runs), 0, np.random.SeedSequence(0))
    assert {one.variable for one in found.fits} == {"budget"}
    assert "differ in tokens too" in found.left_out["L(N)"]
    assert "differ in params too" in found.left_out["L(D)"]


def test_the_frontier_of_compute_holds_what_no_cheaper_run_beats():
    points = frontier(cells(runs(grid(noise=0.05))), "budget")
    assert np.all(np.diff(points.x) > 0)
    assert np.all(np.diff(points.loss) <= 0)
    assert len(points.x) < 36


@pytest.mark.parametrize(("levels", "noise"), [(8, 0.002), (5, 0.01)])
def test_intervals_hold_the_law_about_as_often_as_they_say(levels, noise):
    """Few levels, much noise: draws have long tails, and one must not bound the others."""
    truth = LossPower(E=1.9, coef=40.0, exponent=0.2)
    x, hits, sets = np.geomspace(1e6, 1e9, levels), np.zeros(2), 100
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        loss = truth.loss(x) * np.exp(noise * rng.normal(size=levels))
        rows = [{"N": n, "D": 1e12, "L": y} for n, y in zip(x, loss, strict=True)]
        found = powers(rows, replicates=200).fits
        with_floor = next(one for one in found if one.variable == "params" and one.floor)
        for place, letter in enumerate(("E", "exponent")):
            low, high = with_floor.intervals[letter]
            hits[place] += low <= getattr(truth, letter) <= high
            assert low <= with_floor.params[letter] <= high
    assert np.all(hits / sets > 0.88), hits / sets  # 95 % less three standard errors of 100 sets


def test_a_law_that_can_not_be_made_ends_no_other(monkeypatch):
    solve = losspower._solve

    def fails_with_a_floor(x, loss, floor):
        if floor:
            raise FitError("Newton's method did not arrive")
        return solve(x, loss, floor)

    monkeypatch.setattr(losspower, "_solve", fails_with_a_floor)
    fits = fit(runs(grid()), approaches=["chinchilla"], replicates=0)
    assert [one.variable for one in fits.powers.fits] == ["params", "tokens", "budget"]
    assert "L(N) over a floor is left out: Newton's method did not arrive" in fits.summary()


@pytest.mark.parametrize("seed", range(12))
def test_any_noisy_curve_has_a_fit(seed):
    rng = np.random.default_rng(seed)
    x = np.geomspace(1e6, 1e9, 4 + seed % 5)
    loss = (1.9 + 40 * x**-0.2) * np.exp(0.05 * rng.normal(size=len(x)))
    rows = [{"N": n, "D": 1e12, "L": y} for n, y in zip(x, loss, strict=True)]
    found = powers(rows, replicates=20)
    assert {"L(N)", "L(N) over a floor"}.isdisjoint(found.left_out)


def test_rounded_counts_are_one_level():
    rng = np.random.default_rng(0)
    rows = [{**row, "N": row["N"] * (1 + 1e-6 * rng.normal())} for row in grid()]
    assert {one.variable for one in powers(rows).fits} == {"params", "tokens", "budget"}


def test_a_falling_line_has_no_floor_and_says_so():
    x = np.geomspace(1e6, 1e9, 7)
    rows = [{"N": n, "D": 1e12, "L": 30 * n**-0.1} for n in x]
    found = next(one for one in powers(rows).fits if one.floor and one.variable == "params")
    assert found.status.state == "doubtful"
    assert found.status.reason == "E ended on its bound"


def test_records_come_back_and_are_told():
    fits = fit(runs(grid(noise=0.001)), approaches=["chinchilla"], replicates=50)
    again = Fits.from_dict(json.loads(json.dumps(fits.to_dict())))
    assert again.powers == fits.powers
    assert len(fits.powers.fits) == 6
    text = fits.summary()
    for line in ("L(N) = ", "L(D) = ", "L(C) = ", "95 % of the exponent"):
        assert line in text
