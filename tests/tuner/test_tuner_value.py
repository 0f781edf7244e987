"""Runs chosen by what they tell: the interval asked for is reached, a kill changes no choice."""

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
from driving import drive, engine_in, start, table

from analysis.results import FitError
from tuner import plan, simulate, soundness, space, status
from tuner.backends.contract import FinalError
from tuner.engine import Engine, Nothing
from tuner.errors import ConfigError
from tuner.ledger import DONE, END, Ledger
from tuner.question import Question
from tuner.search import Studies
from tuner.value import OFFSETS, _Known, told

LAW = {
    "learning_rate": 1.79, "rate_params": -0.713, "rate_tokens": 0.307, "curvature": 0.0125,
    "relative_noise": 0.003,
}  # fmt: skip
TARGETED = {
    "budgets": [1e17, 3e17, 1e18],
    "convention": "6ND",
    "shapes": {"per_budget": 7, "context_length": 512, "head_size": 64},
    "training": {"batch_size": 64},
    "search": {"trials": 6, "learning_rate": [3e-4, 1e-1]},
    "law": LAW,
    "target": {"interval": 0.15},
}


@pytest.fixture
def targeted(small):
    """A function from settings to a sweep that is to reach an interval."""

    def make(**settings):
        return small(**{**TARGETED, **settings})

    return make


def run(sweep):
    simulation = simulate.in_memory(sweep)
    for _ in simulation:
        pass
    return simulation.engine


def sizes(engine, budget):
    """N of the completed runs at a budget."""
    done = [engine.trial(record) for record in engine.ledger.records("completed")]
    return {t.shape.params_non_embedding for t in done if t.question.budget == budget}


def test_it_stops_at_the_interval_having_covered_every_budget(targeted):
    sweep = targeted()
    engine = run(sweep)
    value = engine.agenda.value
    found = value.fit(sweep.search.learning_rate)
    assert found.half_widths(value.target)[0] <= math.log(1.15)
    for budget in sweep.budgets:
        n_opt, covered = found.law.n_opt(budget), sizes(engine, budget)
        assert len(covered) >= 3
        assert min(covered) < n_opt < max(covered)
    assert engine.ledger.charged() < plan.plan(sweep).flops / 5


def test_a_narrower_interval_costs_more_and_keeps_to_the_cap(targeted):
    wide, narrow = (run(targeted(target={"interval": i})) for i in (0.3, 0.05))
    assert wide.ledger.charged() < narrow.ledger.charged()
    capped = targeted(target={"interval": 1e-3}, cap={"flops": 8e18})
    engine = run(capped)
    assert engine.ledger.charged() <= 8e18
    assert engine.ledger.charged() > 8e18 - 1e18  # what is left buys little


def test_it_chooses_the_same_after_a_kill(targeted, tmp_path):
    sweep = targeted()
    simulate.simulate(sweep, tmp_path / "calm")
    for ended in (3, 15):
        folder = tmp_path / f"killed {ended}"
        folder.mkdir()
        ledger = Ledger(folder / "ledger.db")
        studies = Studies(sweep, folder / "study.db", plan.vocabulary(sweep))
        killed = simulate.Simulation(sweep, ledger, studies, folder / "checkpoints")
        for _, _ in zip(killed, range(ended), strict=False):
            pass
        ledger.close()
        simulate.simulate(sweep, folder)
        pd.testing.assert_frame_equal(table(sweep, folder), table(sweep, tmp_path / "calm"))


def test_slots_that_wait_for_nothing_ask_for_nothing_twice(targeted, tmp_path):
    sweep = targeted()
    engine = engine_in(sweep, tmp_path)
    drive(engine, tmp_path, np.random.default_rng(0), deaths=0.1)
    asked = [
        (r.question.budget, r.question.size, r.question.learning_rate, r.question.seed)
        for r in engine.ledger.records()
    ]
    assert len(set(asked)) == len(asked)
    found = engine.agenda.value.fit(sweep.search.learning_rate)
    assert found.half_widths(engine.agenda.value.target)[0] <= math.log(1.15)


def test_asked_again_while_nothing_changed_it_need_not_think(targeted, monkeypatch):
    sweep = targeted()
    engine = run(sweep)
    value, rates = engine.agenda.value, sweep.search.learning_rate
    first = value.next(rates, 1e30)
    monkeypatch.setattr(value, "fit", None)
    assert value.next(rates, 1e30) == first


def test_a_rate_that_failed_is_kept_away_from(targeted):
    engine = run(targeted(law={**LAW, "diverges": 0.4}))
    failed = [record.question for record in engine.ledger.records("failed")]
    assert failed
    for record in engine.ledger.records():
        asked = record.question
        for other in failed:
            place = (other.budget, other.size)
            if place == (asked.budget, asked.size) and asked.number > max(other.number, 1):
                assert asked.learning_rate <= other.learning_rate / 2


def test_deaths_say_nothing_of_a_rate_but_two_give_a_size_up(targeted, tmp_path):
    engine = engine_in(targeted(), tmp_path)
    trial = engine.ask()
    budget, size = trial.question.budget, trial.question.size

    def highest():
        return _Known(engine.ledger.records(), engine.ledger.lasts()).highest(budget, size)

    engine.fail(trial.key, "the kernel killed it", FinalError())
    assert highest() == math.inf
    again = next(t for t in iter(engine.ask, None) if t.question.size == size)
    engine.fail(again.key, "the kernel killed it", FinalError())
    assert highest() == 0


def test_too_few_of_the_opening_do_not_end_it(targeted, tmp_path):
    engine = engine_in(targeted(), tmp_path)
    opening = [engine.ask() for _ in range(10)]
    assert engine.ask() is Nothing.YET
    for trial in opening[6:]:
        for progress in start(engine, trial, tmp_path):
            engine.report(trial.key, progress, {})
    for trial in opening[:6]:  # one of each size, and of the smallest both
        engine.fail(trial.key, "unlucky", FinalError())
    assert engine.agenda.value.fit(engine.sweep.search.learning_rate) is None
    drive(engine, tmp_path, np.random.default_rng(0))
    found = engine.agenda.value.fit(engine.sweep.search.learning_rate)
    assert found.half_widths(engine.agenda.value.target)[0] <= math.log(1.15)


def test_what_is_due_and_cannot_be_paid_does_not_end_it(targeted):
    """Ten runs of 1e17 open and three of 3e17 cover: one of 1e18 is due, and too dear."""
    engine = run(targeted(target={"interval": 1e-3}, cap={"flops": 2.5e18}))
    assert 2.5e18 - 1e17 < engine.ledger.charged() <= 2.5e18
    assert not sizes(engine, 1e18)


def test_it_says_how_near_it_came(targeted):
    engine = run(targeted())
    said = told(engine.sweep, engine.ledger, engine.vocab_size)
    assert "known to 15%: reached; one fit of law and learning rates to every run says" in said
    capped = run(targeted(target={"interval": 1e-3}, cap={"flops": 2e19}))
    said = told(capped.sweep, capped.ledger, capped.vocab_size)
    assert "known to 0.1%: not reached" in said
    assert not soundness.faults(engine.sweep, engine.ledger, engine.vocab_size)


def test_sizes_that_lie_off_any_one_law_end_it_and_are_named(targeted):
    sweep = targeted(law={**LAW, "misfit": 0.01})
    engine = run(sweep)
    engine.ledger.write_fact(END, DONE)
    value, rates = engine.agenda.value, sweep.search.learning_rate
    found, cap = value.fit(rates), plan.plan(sweep).cap
    assert found.half_widths(value.target)[0] > math.log(1.15)
    assert 2 * len(found.cells) <= len(engine.ledger.records("completed")) < 60
    assert engine.ledger.charged() < 0.5 * cap
    for budget in sweep.budgets:  # all that is considered has been looked at
        window = space.window(sweep, budget, 256, float(found.law.n_opt(budget)))
        assert len(sizes(engine, budget)) >= len(window) - 1
    said = told(sweep, engine.ledger, 256)
    off = float(re.search(r"not reached \(sizes lie ([\d.]+)% off any one law", said)[1])
    assert 0.4 < off < 2
    assert not status.of(sweep, engine.ledger).stopped
    # Far from half as wide, but an interval that more runs would reach is worth them.
    value.wanted = 0.99 * found.half_widths(value.target)[0]
    assert not value.off(rates)


def test_what_more_runs_would_halve_they_go_on_halving(targeted):
    engine = run(targeted(target={"interval": 1e-3}))
    found = engine.agenda.value.fit(engine.sweep.search.learning_rate)
    assert found.runs > 4 * len(found.cells)
    assert found.half_widths(engine.agenda.value.target)[0] < 0.05


def test_runs_that_no_law_fits_are_not_called_few(targeted, monkeypatch):
    engine = run(targeted())
    completed = len(engine.ledger.records("completed"))

    def fails(*asked):
        raise FitError("the fitted loss does not fall with both model size and tokens")

    monkeypatch.setattr("analysis.surface.fit", fails)
    said = told(engine.sweep, engine.ledger, 256)
    assert f"{completed} completed runs are too few, or lie too far off any law, to say" in said


def test_new_sizes_that_cannot_be_paid_do_not_keep_from_telling_noise_from_what_sizes_share(
    targeted,
):
    engine = run(targeted(law={**LAW, "misfit": 0.01}, cap={"flops": 5.9e18}))
    found = engine.agenda.value.fit(engine.sweep.search.learning_rate)
    assert found.runs < 2 * len(found.cells)
    assert engine.ledger.charged() > 5.9e18 - 1e17


def test_where_every_size_is_given_up_none_is_said_to_lie_off_the_law(targeted, tmp_path):
    engine = engine_in(targeted(target={"interval": 1e-3}), tmp_path)
    for count in itertools.count():
        trial = engine.ask()
        if isinstance(trial, Nothing):
            break
        if count < 18:
            for progress in start(engine, trial, tmp_path):
                engine.report(trial.key, progress, {})
        else:
            engine.fail(trial.key, "unlucky", FinalError())
    engine.ledger.write_fact(END, DONE)
    said = told(engine.sweep, engine.ledger, 256)
    assert "not reached (nothing left to run would tell more)" in said


def test_chosen_runs_are_heard_to_their_end(targeted):
    assert not run(targeted()).ledger.records("pruned")


def test_the_next_run_is_the_one_worth_most_per_flop(targeted, monkeypatch):
    sweep = targeted()
    engine = run(sweep)
    value, rates = engine.agenda.value, sweep.search.learning_rate
    value.wanted, value._last = 0.0, (None, None)
    monkeypatch.setattr(value, "_is_beyond", lambda *_: False)
    chosen, found = value.next(rates, math.inf), value.fit(rates)
    before = found.error(value.target)

    def trial_of(budget, size):
        asked = vars(chosen.asked(chosen.setting)) | {"budget": budget, "size": size}
        return space.trial(sweep, Question(**asked), 256)

    def worth(trial, rate):
        params, tokens = float(trial.shape.params_non_embedding), float(trial.tokens)
        one = found.with_runs(np.array([params]), np.array([tokens]), np.array([rate]))
        return float((1 - (one.error(value.target) / before) ** 2).sum()) / trial.flops

    best = worth(trial_of(chosen.budget, chosen.size), chosen.setting.learning_rate)
    for budget in sweep.budgets:
        n_opt = float(found.law.n_opt(budget))
        for size in space.window(sweep, budget, 256, n_opt):
            trial = trial_of(budget, size)
            middle = found.best_rate(trial.shape.params_non_embedding, trial.tokens)
            for rate in np.clip(middle * np.exp(OFFSETS), *rates):
                assert worth(trial, rate) <= best * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budgets": [1e17]}, "target.interval: one budget shows no trend"),
        ({"target": {"interval": -1}}, "target.interval"),
        (
            {"search": {**TARGETED["search"], "batch_size": [32, 64]}},
            "search.batch_size: runs chosen by value differ in budget, size and rate alone",
        ),
        ({"search": {**TARGETED["search"], "seeds": 2}}, "search.seeds: runs chosen by value"),
        ({"resources": {"stack": 3}}, "resources.stack: runs chosen by value are chosen one at"),
        ({"pruning": {"chance": 0.1}}, "pruning.chance: runs chosen by value are not pruned"),
    ],
)
def test_what_does_not_go_with_value_is_told(targeted, change, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        targeted(**change)


def test_the_plan_says_what_it_costs_at_most(targeted):
    assert plan.plan(targeted()).cap == plan.plan(targeted(target={})).cap


def test_without_an_interval_nothing_is_chosen_by_value(targeted):
    assert isinstance(simulate.in_memory(targeted(target={})).engine, Engine)
    assert simulate.in_memory(targeted(target={})).engine.agenda.value is None


@pytest.mark.parametrize(
    ("cap", "named"),
    [
        ({"flops": 8e18}, "cap.flops = 8e+18"),
        ({"seconds": 8e6}, "cap.seconds = 8e+06"),
        ({"money": 4e3, "price_per_hour": 1.8}, "cap.money = 4000"),
        ({"flops": 1.5e17}, "cap.flops = 1.5e+17"),  # it ends in the opening
    ],
)
def test_the_cap_that_ended_it_is_named_wherever_it_is_not_reached(targeted, cap, named):
    sweep = targeted(target={"interval": 1e-3}, cap=cap, resources={"flops_per_second": 1e12})
    ledger = run(sweep).ledger
    cheapest = 9.9e16  # of the smallest budget
    seconds = plan.slot_seconds(sweep) - ledger.seconds()
    assert min(plan.plan(sweep).cap - ledger.charged(), 1e12 * seconds) < 1.01 * cheapest
    assert not status.of(sweep, ledger).stopped  # it may go on
    ledger.write_fact(END, DONE)
    assert status.of(sweep, ledger).stopped == (
        f"stopped by {named}, before target.interval = 0.001 was reached; "
        "raise it in the sweep's file and run that with the same --dir"
    )
    assert f" ({named} leaves no room for a run that would tell more)" in told(sweep, ledger, 256)
    ledger.write_fact(END, "interrupted")
    assert f"{named} leaves" not in told(sweep, ledger, 256)


def test_of_two_caps_the_one_that_forbids_even_the_cheapest_run_is_named(targeted):
    """A run of 1e18 is worth most, and .8e18 are left; but not the time for one of 1e17."""
    sweep = targeted(
        target={"interval": 1e-3}, cap={"flops": 5.9e18, "seconds": 5.15e6},
        resources={"flops_per_second": 1e12}, law={**LAW, "misfit": 0.01},
    )  # fmt: skip
    engine = run(sweep)
    room = 5.9e18 - engine.ledger.charged()
    assert engine.agenda.value.next(sweep.search.learning_rate, math.inf).budget > room > 1e17
    engine.ledger.write_fact(END, DONE)
    assert "stopped by cap.seconds = 5.15e+06" in status.of(sweep, engine.ledger).stopped


def test_no_cap_is_named_where_it_is_reached_or_nothing_would_tell_more(targeted, tmp_path):
    sweep = targeted()
    ledger = run(sweep).ledger
    ledger.write_fact(END, DONE)
    assert not status.of(sweep, ledger).stopped
    engine = engine_in(sweep, tmp_path)
    first = engine.ask()
    for progress in start(engine, first, tmp_path):
        engine.report(first.key, progress, {})
    while not isinstance(trial := engine.ask(), Nothing):  # until every size is given up
        engine.fail(trial.key, "unlucky", FinalError())
    engine.ledger.write_fact(END, DONE)
    assert not status.of(sweep, engine.ledger).stopped
    assert "(nothing left to run would tell more)" in told(sweep, engine.ledger, 256)
