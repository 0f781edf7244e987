"""The workings: minima, power laws, derivatives, resampling, simulated tables."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import objectives, powerlaw, profiles
from analysis.allocation import _redrawn_profile
from analysis.envelope import lower_hull
from analysis.laws import LossLaw
from analysis.parametric import evaluate, solve, solve_all
from analysis.parametric import law as law_at
from analysis.problem import Box, Problem
from analysis.runs import Runs
from analysis.simulate import simulate
from analysis.uncertainty import counts, default_bootstrap, redrawn, resampled, residuals

OBJECTIVES = {
    "huber": objectives.huber(3e-2),
    "log_squares": objectives.log_squares(),
    "raw_squares": objectives.raw_squares(),
    "lower_envelope": objectives.lower_envelope(3e-2),
}


@pytest.fixture
def problem(truth):
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(3, 6, 40), 10 ** rng.uniform(5, 8, 40)
    return Problem.of(n, d, truth.loss(n, d) * np.exp(0.02 * rng.normal(size=40)))


@pytest.mark.parametrize("name", [*OBJECTIVES])
def test_derivatives_are_those_of_the_objective(problem, name):
    penalty = OBJECTIVES[name].penalty
    point = np.array([[-1.0, -0.8, 0.1, 0.3, 0.4, 1.3]])
    _, gradient, hessian = evaluate(problem, penalty, point, np.arange(1), coupled=True)
    steps = 1e-6 * np.eye(6)
    ahead = evaluate(problem, penalty, point + steps, np.zeros(6, dtype=int), coupled=True)
    behind = evaluate(problem, penalty, point - steps, np.zeros(6, dtype=int), coupled=True)
    assert gradient[0] == pytest.approx((ahead[0] - behind[0]) / 2e-6, rel=1e-5)
    assert hessian[0] == pytest.approx((ahead[1] - behind[1]) / 2e-6, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", [*OBJECTIVES])
def test_the_plain_law_is_the_coupled_one_at_one(problem, name):
    penalty = OBJECTIVES[name].penalty
    point = np.array([[-1.0, -0.8, 0.1, 0.3, 0.4, 1.0]])
    value, gradient, hessian = evaluate(problem, penalty, point, np.arange(1), coupled=True)
    same, plain, held = evaluate(problem, penalty, point, np.arange(1), coupled=False)
    assert same == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(plain[:, :5], gradient[:, :5], rtol=1e-10)
    np.testing.assert_allclose(held[:, :5, :5], hessian[:, :5, :5], rtol=1e-10)
    assert not plain[:, 5].any()
    assert not held[:, 5].any()


def test_tables_larger_than_a_block_are_evaluated_as_one(problem, monkeypatch):
    points = np.array([-1.0, -0.8, 0.1, 0.3, 0.4, 1.3]) + 0.01 * np.arange(9)[:, None]
    table = replace(problem, weights=np.arange(9.0)[:, None] + np.arange(40))
    penalty = objectives.log_squares().penalty
    whole = evaluate(table, penalty, points, np.arange(9), coupled=True)
    for block in (80, 17):  # replicates apart, then runs too
        monkeypatch.setattr("analysis.derivatives.BLOCK", block)
        parts = evaluate(table, penalty, points, np.arange(9), coupled=True)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_point_beyond_all_tables_is_no_improvement_and_no_warning(problem):
    """Powers overflow there; Newton must see a value that it can only refuse."""
    point = np.array([[900.0, 900.0, 0.1, 3.0, 3.0, 20.0]])
    for coupled in (False, True):
        value, _, _ = evaluate(
            problem, objectives.huber().penalty, point, np.arange(1), coupled=coupled
        )
        assert not value[0] < np.inf


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1e6])
def test_the_unit_of_loss_does_not_matter(problem, unit):
    scaled = replace(problem, log_loss=problem.log_loss + np.log(unit))
    for box in (Box(), Box(coupled=True)):
        one, other = (solve(each, objectives.huber(), box).law for each in (problem, scaled))
        assert other.alpha == pytest.approx(one.alpha, rel=1e-6)
        assert pytest.approx(unit * one.E, rel=1e-6) == other.E


def test_a_draw_does_not_depend_on_those_beside_it(problem):
    """The lowest loss of one replicate bounds E of that one alone."""
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_t(2, size=(30, 40))
    tables = replace(problem, log_loss=problem.log_loss + noise)
    together = solve_all(tables, objectives.log_squares())
    for row in range(0, 30, 6):
        alone = replace(problem, log_loss=tables.log_loss[row : row + 1])
        np.testing.assert_allclose(
            law_at(solve_all(alone, objectives.log_squares()), (0, 0)).E,
            law_at(together[row : row + 1], (0, 0)).E, rtol=1e-4,
        )  # fmt: skip


def test_a_pinned_floor_stays(problem, truth):
    found = solve(problem, objectives.huber(), Box(E=truth.E))
    assert pytest.approx(truth.E, rel=1e-14) == found.law.E
    assert found.certificate.bounds == ()
    assert found.jacobian.shape == (40, 4)


def test_tied_exponents_are_one(problem):
    found = solve(problem, objectives.huber(), Box(tied=True))
    assert found.law.alpha == found.law.beta
    assert found.jacobian.shape == (40, 4)


def test_the_lower_envelope_lies_below_the_runs(problem):
    middle = solve(problem, objectives.huber()).predicted
    lower = solve(problem, objectives.lower_envelope(above=0.01)).predicted
    assert np.mean(lower < problem.log_loss[0]) > 0.8 > np.mean(middle < problem.log_loss[0])


@given(st.floats(0.05, 2), st.floats(-1, 1), st.floats(5, 30))
def test_every_method_finds_the_bottom_of_a_parabola(bend, center, low):
    x = np.linspace(-3, 3, 9)
    loss = (low + bend * (x - center) ** 2)[None]
    for method in (profiles.parabola, profiles.cubic):
        position, value = method(x, loss)
        assert position[0] == pytest.approx(center, abs=1e-6)
        assert value[0] == pytest.approx(low, rel=1e-9)
    assert profiles.akima(x, loss)[0][0] == pytest.approx(center, abs=0.3)
    assert abs(profiles.lowest_run(x, loss)[0][0] - center) <= 0.376


@pytest.mark.parametrize("method", [profiles.parabola, profiles.cubic, profiles.akima])
def test_a_profile_without_a_bottom_has_no_minimum(method):
    x = np.linspace(0, 1, 6)
    assert np.isnan(method(x, np.exp(-x)[None] + 1)[0][0])


@given(st.floats(1e-3, 1e3), st.floats(-0.9, 1.5))
def test_power_laws_come_back_in_both_spaces(coef, exponent):
    x = np.geomspace(1e18, 1e21, 6)
    y = coef * x**exponent
    assert powerlaw.log_fit(x, y) == pytest.approx((coef, exponent), rel=1e-8, abs=1e-9)
    # The raw search compares values: exponents to the root of rounding, coefficients ln(x) of that.
    raw_coef, raw_exponent = powerlaw.raw_fit(x, y)
    assert isinstance(raw_coef, float)
    assert isinstance(raw_exponent, float)
    assert raw_exponent == pytest.approx(exponent, abs=1e-6)
    assert raw_coef == pytest.approx(coef, rel=1e-4)


# Apart as ln FLOP of tables may be: between closer ones `interp` has no finite slope.
PLACES = st.integers(-5_000_000, 5_000_000).map(lambda place: place / 1e6)


@given(st.lists(st.tuples(PLACES, st.floats(-5, 5)), min_size=3, max_size=40, unique=True))
def test_no_point_lies_below_the_hull(points):
    x, y = np.array(points).T
    hull = lower_hull(x, y)
    floor = np.interp(x, x[hull], y[hull])
    inside = x > x.min()
    assert np.all(y[inside] >= floor[inside] - 1e-9)


def test_few_trials_redraw_residuals_and_many_draw_pairs():
    assert default_bootstrap(np.arange(99)) == "residual"
    assert default_bootstrap(np.arange(100)) == "pairs"


def test_a_trial_is_drawn_whole():
    clusters = np.repeat([7, 3, 5], [2, 4, 1])
    drawn = counts(clusters, 50, np.random.default_rng(0))
    assert np.all(drawn[:, 0] == drawn[:, 1])
    assert np.all(drawn[:, 2:6] == drawn[:, [2]])
    assert np.all(drawn[:, 0] + drawn[:, 2] + drawn[:, 6] == 3)


def test_redrawn_noise_has_students_tails_and_the_trials_correlation():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 4)
    shared = 0.03 * rng.normal(size=30)[clusters] + 0.01 * rng.normal(size=120)
    left = residuals(shared, np.zeros(120), np.ones((120, 1)), clusters)
    assert left.correlation == pytest.approx(0.9, abs=0.06)
    assert left.freedom == 29
    assert left.noise == pytest.approx(np.sqrt((shared**2).sum() / 119))
    drawn = redrawn(left, clusters, "residual", 4000, rng)
    assert np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] == pytest.approx(left.correlation, abs=0.05)
    few = residuals(shared[:6], np.zeros(6), np.ones((6, 1)), np.arange(6))
    tails = redrawn(few, np.arange(6), "residual", 20000, rng)[:, 0] / few.noise
    assert np.quantile(np.abs(tails), 0.95) == pytest.approx(2.571, rel=0.05)  # Student, 5 degrees


def test_noise_known_from_seeds_is_a_floor():
    each = np.arange(6)
    left = residuals(np.full(6, 1e-9), np.zeros(6), np.ones((6, 1)), each, floor=0.01)
    assert left.noise == 0.01


def test_nominal_intervals_cover_a_small_factorial_design():
    """Nine runs, 2 % noise; the whole table is tests/benchmarks/coverage.py's."""
    rng = np.random.default_rng(4)
    law = LossLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
    axes = np.meshgrid(np.geomspace(1e7, 1e9, 3), np.geomspace(1e8, 1e10, 3))
    params, tokens = (axis.ravel() for axis in axes)
    each, hits = np.arange(9), 0
    for _ in range(60):
        loss = law.loss(params, tokens) * np.exp(0.02 * rng.normal(size=9))
        table = Problem.of(params, tokens, loss)
        found = solve(table, objectives.huber())
        left = residuals(table.log_loss[0], found.predicted, found.jacobian, each)
        drawn = resampled(table, left, each, "residual", 150, rng)
        points = np.concatenate([solve_all(one, objectives.huber()) for one in drawn])
        low, high = np.percentile(law_at(points, table.centers).a, [2.5, 97.5])
        hits += low <= law.a <= high
    assert hits >= 54  # binomial: 95 % of 60 is 57, and fewer than 54 has a chance of 3 %


@pytest.mark.parametrize("bootstrap", ["pairs", "wild", "residual"])
def test_every_bootstrap_knows_the_error_of_a_mean(bootstrap):
    rng = np.random.default_rng(3)
    y = rng.normal(size=200)
    left = residuals(y, np.full(200, y.mean()), np.ones((200, 1)), np.arange(200))
    if bootstrap == "pairs":
        weights = counts(np.arange(200), 4000, rng)
        means = (weights @ y) / 200
    else:
        means = redrawn(left, np.arange(200), bootstrap, 4000, rng).mean(axis=1)
    assert means.std() == pytest.approx(y.std() / np.sqrt(200), rel=0.06)


def test_simulated_runs_keep_to_their_law(truth):
    table = simulate(truth, [1e12, 1e13], [1e4, 1e5], seeds=2)
    found = Runs.of(table).table
    assert len(found) == 8
    assert found["loss"].to_numpy() == pytest.approx(
        truth.loss(found["params"], found["tokens"]), rel=1e-6
    )
    assert (6 * found["params"] * found["tokens"] / found["budget"]).to_numpy() == pytest.approx(
        1, rel=1e-4
    )
    assert table.equals(simulate(truth, [1e12, 1e13], [1e4, 1e5], seeds=2))


def test_draws_beyond_all_numbers_are_no_crash():
    log_params = np.log([1e4, 3e4, 1e5, 3e5])
    profile = profiles.Profile(
        budget=1e12, log_params=log_params, log_tokens=25 - log_params,
        loss=np.array([9.0, 2.0, 7.0, 1.5]), noise=0.0,
    )  # fmt: skip
    drawn = _redrawn_profile(profile, profiles.METHODS["akima"], 20_000, np.random.default_rng(0))
    assert np.isfinite(drawn).all()
    assert np.log(drawn).max() > 15  # some lie that far out, and are kept there
    profiles.METHODS["akima"].minimum(log_params, drawn)
