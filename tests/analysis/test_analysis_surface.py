"""Law and learning rate in one fit: it comes back, its interval is honest, its foresight true."""

import numpy as np
import pytest

from analysis import surface
from analysis.laws import PUBLISHED
from analysis.surface import Tuned

RATES = (3e-4, 1e-1)
BUDGETS = (1e17, 3e17, 1e18)
TARGET = 3e19
TRUTH = PUBLISHED[0].law


def best_rate(params, tokens):
    return 1.79 * params**-0.713 * tokens**0.307  # Step Law, arXiv 2503.04715, eq. 1


def runs(*, noise=0.0, misfit=0.0, seed=0, budgets=BUDGETS, rates=(0.4, 1.0, 2.5)):
    """Seven sizes a budget at rates around the best one, each of which may lie off the law."""
    rng = np.random.default_rng(seed)
    budget, size, off = (
        axis.ravel()
        for axis in np.meshgrid(budgets, np.geomspace(1 / 6, 6, 7), rates, indexing="ij")
    )
    params = size * np.sqrt(budget / 120)
    tokens = budget / 6 / params
    rate = off * best_rate(params, tokens)
    loss = TRUTH.loss(params, tokens) + 0.0125 * np.log(off) ** 2
    apart = np.random.default_rng((seed, 1)).normal(size=(len(budgets), 7, 1))
    loss *= np.exp(misfit * np.repeat(apart, len(rates), axis=-1).ravel())
    return Tuned(
        budget=budget, params=params, tokens=tokens, learning_rate=rate,
        loss=loss * np.exp(noise * rng.normal(size=len(loss))),
    )  # fmt: skip


def test_a_noise_free_surface_comes_back():
    found = surface.fit(runs(), RATES)
    assert found.law.n_opt(TARGET) == pytest.approx(TRUTH.n_opt(TARGET), rel=0.02)
    assert found.law.loss_opt(TARGET) == pytest.approx(TRUTH.loss_opt(TARGET), rel=0.002)
    assert found.best_rate(1e8, 2e9) == pytest.approx(best_rate(1e8, 2e9), rel=0.02)


def test_badly_chosen_rates_do_not_move_the_answer():
    low, high = (surface.fit(runs(rates=r), RATES) for r in ((0.2, 0.5, 1.1), (0.9, 2.0, 5.0)))
    assert low.law.n_opt(TARGET) == pytest.approx(high.law.n_opt(TARGET), rel=0.03)


@pytest.mark.parametrize("misfit", [0.0, 0.003, 0.015])
def test_ninety_of_a_hundred_intervals_hold_the_truth(misfit):
    truth = np.log([TRUTH.n_opt(TARGET), TRUTH.loss_opt(TARGET)])
    several = (runs(noise=0.003, misfit=misfit, seed=seed) for seed in range(100))
    found = [surface.fit(seen, RATES) for seen in several]
    inside = sum(abs(one.targets(TARGET)[0] - truth) <= one.half_widths(TARGET) for one in found)
    assert ((inside >= 83) & (inside <= 97)).all()


def test_it_foresees_what_further_runs_will_do_to_its_error():
    seen = runs(noise=0.003, budgets=BUDGETS[:2])
    more = runs(noise=0.003, seed=0)
    new = more.budget == BUDGETS[2]
    before = surface.fit(seen, RATES)
    ahead = before.with_runs(more.params[new], more.tokens[new], more.learning_rate[new])
    after = surface.fit(more, RATES)
    assert ahead.error(TARGET)[0] < before.error(TARGET)[0]
    # What is foreseen is the covariance at the noise now believed.
    foreseen = ahead.error(TARGET) / ahead.noise
    assert foreseen == pytest.approx(after.error(TARGET) / after.noise, rel=0.25)


def test_its_covariance_is_that_of_the_dense_deviations():
    seen = runs(noise=0.003, misfit=0.01)
    found = surface.fit(seen, RATES)
    _, slope, own = found.predicted(seen.params, seen.tokens, seen.learning_rate)
    together = seen.params[:, None] == seen.params
    dense = np.diag(own**2) + found.shared**2 * (together & (seen.tokens[:, None] == seen.tokens))
    precision = slope.T @ np.linalg.solve(dense, slope) + found.prior
    assert found.covariance @ precision == pytest.approx(np.eye(9), abs=1e-6)
    assert 0.005 < found.shared < 0.015


def test_more_runs_of_sizes_that_lie_off_the_law_do_not_bring_them_nearer():
    few, many = (
        surface.fit(runs(noise=0.003, misfit=0.015, rates=np.geomspace(0.4, 2.5, count)), RATES)
        for count in (3, 30)
    )
    assert many.half_widths(TARGET)[0] > 0.8 * few.half_widths(TARGET)[0]
    assert 12 < many.freedom < len(many.cells) == 21  # a cell counts once, letters take nearly nine
    exact = surface.fit(runs(noise=0.003, rates=np.geomspace(0.4, 2.5, 30)), RATES)
    assert exact.half_widths(TARGET)[0] < 0.3 * many.half_widths(TARGET)[0]


def test_what_a_run_is_said_to_take_it_takes():
    seen = runs(noise=0.003, misfit=0.01, budgets=BUDGETS[:2])
    found = surface.fit(seen, RATES)
    where = (  # two new sizes, and another run of one that has some
        np.array([3e7, 2e8, seen.params[0]]), np.array([1e9, 5e8, seen.tokens[0]]),
        np.array([2e-3, 9e-3, seen.learning_rate[0]]),
    )  # fmt: skip
    said = found.falls(*where, TARGET)
    for place in range(3):
        one = found.with_runs(*(axis[[place]] for axis in where))
        assert said[:, place] == pytest.approx(
            1 - (one.error(TARGET) / found.error(TARGET)) ** 2, abs=1e-6
        )


def test_so_many_runs_at_once_are_as_many_one_by_one():
    found = surface.fit(runs(noise=0.003), RATES)
    where = (np.array([3e7, 2e8]), np.array([1e9, 5e8]), np.array([2e-3, 9e-3]))
    one_by_one = found.with_runs(*where).with_runs(*where).with_runs(*where)
    at_once = found.with_runs(*where, times=3)
    assert at_once.covariance == pytest.approx(one_by_one.covariance, rel=1e-9)
    assert at_once.runs == one_by_one.runs == found.runs + 6


def test_its_derivatives_are_those_of_its_predictions():
    found = surface.fit(runs(noise=0.003), RATES)
    where = (np.array([3e7, 2e8]), np.array([1e9, 5e8]), np.array([2e-3, 9e-3]))
    _, slope, _ = found.predicted(*where)
    for letter in range(len(surface.LETTERS)):
        step = np.zeros(len(surface.LETTERS))
        step[letter] = 1e-6
        moved = [
            surface._evaluate(found.point + sign * step, found._places(*where))[0]
            for sign in (1, -1)
        ]
        assert slope[:, letter] == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-5, abs=1e-9)
