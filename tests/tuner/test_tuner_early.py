"""Foresight: a run is stopped once it can hardly be its shape's best; every shape keeps one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from driving import drive, engine_in
from optuna.trial import TrialState

from model.progress import Progress
from tuner import plan, simulate, space
from tuner.early import LEAST, Early
from tuner.question import Question

RATES = np.geomspace(4e-3, 1e-1, 12)


def trial_of(sweep, rate, size=(1, 64), budget=1e14, trunk=()):
    asked = Question(budget=budget, size=size, learning_rate=rate, number=0, seed=0, trunk=trunk)
    trial = space.trial(sweep, asked, plan.vocabulary(sweep))
    return replace(trial, question=replace(asked, number=round(1e6 * rate)))


def told(trial, losses):
    """Reports of a trial, one a loss."""
    return [
        Progress(
            step=step, tokens=step, flops=step * trial.flops_per_step, flops_evaluation=0,
            loss=loss, loss_se=0.0, train_loss=loss, learning_rate=0.0, seconds=0.0,
            final=step == trial.steps,
        )
        for step, loss in zip(trial.report_steps, losses, strict=True)
    ]  # fmt: skip


def curve(rate, rng):
    """Losses at a quarter, a half, three quarters and the end: best at 2e-2, small rates early."""
    off = math.log(rate / 2e-2)
    end = 3.0 + 0.05 * off**2
    return [end * math.exp(still * (1 + 0.2 * off) + 2e-3 * rng.normal()) for still in
            (0.3, 0.2, 0.1)] + [end]  # fmt: skip


def falling(trial, rate, rng):
    """Losses at every report of a trial: above its end by what of its run is still to come."""
    end = 3.0 + 0.05 * math.log(rate / 2e-2) ** 2
    left = [1 - step / trial.steps for step in trial.report_steps]
    return [end * math.exp(0.4 * share + 2e-3 * rng.normal() * (share > 0)) for share in left]


@pytest.fixture
def learned(small):
    """What twelve completed runs of another shape taught, and the sweep."""
    sweep, early, rng = small(), Early(), np.random.default_rng(0)
    for rate in RATES:
        trial = trial_of(sweep, rate, size=(2, 64))
        early.learn(trial, told(trial, curve(rate, rng)))
    return sweep, early, rng


def test_a_shape_s_first_run_goes_on(learned):
    sweep, early, rng = learned
    trial = trial_of(sweep, 1e-1)
    assert early.chance(trial, told(trial, curve(1e-1, rng))[0]) == 1.0


def test_hopeless_runs_are_known_early_and_good_ones_are_not_stopped(learned):
    sweep, early, rng = learned
    best = trial_of(sweep, 2e-2)
    early.learn(best, told(best, curve(2e-2, rng)))
    poor = trial_of(sweep, 1e-1)
    first, *_ = told(poor, curve(1e-1, rng))
    assert early.chance(poor, first) < 0.01
    rival = trial_of(sweep, 1.9e-2)
    assert early.chance(rival, told(rival, [loss * 0.995 for loss in curve(1.9e-2, rng)])[0]) > 0.5
    # Small rates lead in the middle of a run; the trend in the rate sees through it.
    small_rate = trial_of(sweep, 5e-3)
    reports = told(small_rate, curve(5e-3, rng))
    assert reports[0].loss < told(best, curve(2e-2, rng))[0].loss
    assert early.chance(small_rate, reports[0]) < 0.05


def test_few_runs_teach_nothing(small):
    sweep, early, rng = small(), Early(), np.random.default_rng(0)
    for rate in RATES[: LEAST - 1]:
        trial = trial_of(sweep, rate)
        early.learn(trial, told(trial, curve(rate, rng)))
    poor = trial_of(sweep, 5e-1)
    assert early.chance(poor, told(poor, [99.0] * 4)[0]) == 1.0


def test_forked_runs_are_compared_at_the_same_share_of_their_budgets(small):
    sweep, rng = small(training={"schedule": "forks"}), np.random.default_rng(0)
    early = Early()
    for rate in RATES:
        whole = trial_of(sweep, rate, size=(2, 64))
        early.learn(whole, told(whole, falling(whole, rate, rng)))
    best = trial_of(sweep, 2e-2)
    early.learn(best, told(best, falling(best, 2e-2, rng)))
    # Its first report comes after what is the second of all the others.
    forked = trial_of(sweep, 2e-2, trunk=(5e13,))
    assert len(forked.report_steps) == len(best.report_steps) - 1
    first = told(forked, falling(forked, 2e-2, rng))[0]
    assert first.step == best.report_steps[1]
    assert 0.05 < early.chance(forked, first) < 0.95  # it does as well as the best, to its noise
    # And of its own it teaches nothing of what its trunk covered.
    alone = Early()
    for rate in RATES:
        other = trial_of(sweep, rate, size=(2, 64), trunk=(5e13,))
        alone.learn(other, told(other, falling(other, rate, rng)))
    alone.learn(best, told(best, falling(best, 2e-2, rng)))
    poor = trial_of(sweep, 1e-1)
    reports = told(poor, falling(poor, 1e-1, rng))
    assert alone.chance(poor, reports[0]) == 1.0
    assert alone.chance(poor, reports[1]) < 0.01


def foresighted(small, **law):
    return small(
        search={"trials": 5, "extend": False}, pruning={"chance": 0.1, "min_population": 1000},
        law={"wobble": 0.5, "hurry": 0.1, **law},
    )  # fmt: skip


def test_every_shape_keeps_a_completed_run_and_flops_are_saved(small):
    sweep = foresighted(small)
    simulation = simulate.in_memory(sweep)
    assert len(list(simulation)) == plan.plan(sweep).trials
    ledger = simulation.engine.ledger
    pruned = ledger.records("pruned")
    assert pruned
    assert all("to end as its shape's best rate" in record.reason for record in pruned)
    shapes = {(r.question.budget, r.question.size) for r in ledger.records()}
    covered = {(r.question.budget, r.question.size) for r in ledger.records("completed")}
    assert covered == shapes
    assert ledger.charged() < 0.9 * plan.plan(sweep).flops


def test_optuna_hears_pruned(small):
    simulation = simulate.in_memory(foresighted(small))
    for _ in simulation:
        pass
    engine = simulation.engine
    for record in engine.ledger.records():
        state = engine.studies.trials(record.question.budget)[record.optuna].state
        assert (state is TrialState.PRUNED) == (record.status == "pruned")


def test_a_new_engine_on_the_same_ledger_knows_as_much(small, tmp_path):
    sweep = foresighted(small)
    engine = engine_in(sweep, tmp_path)
    drive(engine, tmp_path, np.random.default_rng(0), stop_after=50)
    again = engine_in(sweep, tmp_path)
    for record in engine.ledger.records("pruned"):
        trial = engine.trial(record)
        last = engine.ledger.last(record.key)
        assert again.early.chance(trial, last) == engine.early.chance(trial, last)
