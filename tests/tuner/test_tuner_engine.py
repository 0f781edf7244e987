"""The engine on a law, in simulated time: what it decides, and that nothing it decided is lost."""

import itertools
import json
import math
import pickle
import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tomli_w
from driving import bundle_of, drive, engine_in, provenance, start, table
from ray.exceptions import RayTaskError

from model.memory import TooLargeError
from tuner import doubts, driver, plan, simulate, soundness, space, status
from tuner import provenance as provenances
from tuner import slot as slots
from tuner.backends import contract
from tuner.backends.contract import FinalError, Job, OutOfMemoryError, WorkerLostError
from tuner.engine import Engine, Nothing
from tuner.export import export
from tuner.ledger import DONE, END, Ledger
from tuner.meter import Meter
from tuner.nodes import GRACE, Losses
from tuner.question import Cell, Setting
from tuner.search import Studies
from tuner.slot import Slot
from tuner.storage import Place

SETTLED = {
    "search": {"sampler": "qmc", "warm_start": False, "extend": False},
    "pruning": {"enabled": False},
}


def test_every_size_is_covered_and_every_budget_kept(small, tmp_path):
    sweep = small(search={"trials": 4})
    simulate.simulate(sweep, tmp_path, slots=4)
    found = table(sweep, tmp_path)
    for budget in sweep.budgets:
        mine = found[found["budget"] == budget]
        done = mine[mine["status"] == "completed"]
        assert set(done["d_model"]) == set(mine["d_model"])
        assert len(set(mine["d_model"])) >= 5
        steps_worth = done["batch_size"] * done["context_length"] * done["flops_per_token"]
        assert ((budget - steps_worth < done["flops"]) & (done["flops"] <= budget)).all()
    pruned = found[found["status"] == "pruned"]
    assert len(pruned)
    assert (pruned["flops"] < pruned["budget"]).all()
    assert pruned["reason"].str.startswith("ASHA at ").all()


def test_the_ledger_sums_to_the_table(small, tmp_path):
    sweep = small()
    simulate.simulate(sweep, tmp_path, slots=3)
    ledger = Ledger(tmp_path / "ledger.db")
    found = export(tmp_path, sweep, ledger, provenance(sweep))
    assert found["flops_charged"].sum() == ledger.charged() == ledger.committed()
    assert ledger.charged() <= plan.plan(sweep).cap
    ledger.close()


def test_the_best_rate_of_the_law_is_found(small, tmp_path):
    sweep = small(search={"trials": 6}, law={"learning_rate": 0.03, "curvature": 0.1})
    simulate.simulate(sweep, tmp_path, slots=2)
    found = table(sweep, tmp_path)
    done = found[(found["status"] == "completed") & (found["budget"] == 1e14)]
    best = done.loc[done["loss"].idxmin()]
    assert 0.015 < best["learning_rate"] < 0.06


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "qmc", "random", "grid"])
def test_every_sampler_runs_a_sweep_inside_the_range(small, tmp_path, sampler):
    sweep = small(budgets=[1e13], search={"sampler": sampler, "trials": 4})
    simulate.simulate(sweep, tmp_path, slots=2)
    rates = table(sweep, tmp_path)["learning_rate"]
    low, high = sweep.search.learning_rate
    assert ((low <= rates) & (rates <= high)).all()
    assert rates.nunique() >= 4


@pytest.mark.parametrize("seed", range(5))
def test_settled_sweeps_give_one_table_whatever_happens(small, tmp_path, seed):
    sweep = small(**SETTLED, cap={"flops": 1e17})
    simulate.simulate(sweep, tmp_path / "calm", slots=1)
    rng = random.Random(seed)
    stormy = tmp_path / "stormy"
    for _ in range(4):  # the driver dies, too
        drive(engine_in(sweep, stormy), stormy, rng, deaths=0.02, stop_after=rng.randrange(1, 30))
    drive(engine_in(sweep, stormy), stormy, rng)
    pd.testing.assert_frame_equal(table(sweep, stormy), table(sweep, tmp_path / "calm"))


def test_one_slot_gives_one_table_even_when_it_learns(small, tmp_path):
    sweep = small(search={"trials": 4})
    simulate.simulate(sweep, tmp_path / "calm", slots=1)
    stormy = tmp_path / "stormy"

    def one_slot(engine, stop_after):
        for _ in range(stop_after):
            trial = engine.ask()
            if isinstance(trial, Nothing):
                return
            for progress in start(engine, trial, stormy):
                if not engine.report(trial.key, progress, {}):
                    break

    for trials in (7, 9, 10**6):
        one_slot(engine_in(sweep, stormy), trials)
    pd.testing.assert_frame_equal(table(sweep, stormy), table(sweep, tmp_path / "calm"))


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_functions_of_their_configuration(small, tmp_path, seed):
    sweep = small(search={"trials": 4}, cap={"flops": 1e17})
    rng = random.Random(seed)
    for _ in range(3):
        drive(engine_in(sweep, tmp_path), tmp_path, rng, deaths=0.05, stop_after=25)
    drive(engine_in(sweep, tmp_path), tmp_path, rng)
    ledger = Ledger(tmp_path / "ledger.db")
    for record in ledger.records("completed", "pruned"):
        trial = space.trial(sweep, record.question, plan.vocabulary(sweep))
        job = Job(sweep=sweep, vocab_size=256, corpus=None, checkpoints=Place.of(tmp_path))
        alone = list(contract.start(job, trial))
        told = ledger.reports(record.key)
        assert told == alone[: len(told)]
    ledger.close()


def test_a_trial_that_keeps_dying_fails_and_says_so(small, tmp_path):
    sweep = small(budgets=[1e13], resources={"max_attempts": 2}, search={"trials": 1})
    engine = engine_in(sweep, tmp_path)
    trial = engine.ask()
    for _ in range(2):
        engine.fail(trial.key, "SIGKILL")
        engine.ask()
    record = engine.ledger.record(trial.key)
    assert (record.status, record.reason, record.attempts) == ("failed", "SIGKILL", 2)
    # Nothing was reported: each death may have cost all work up to the first report.
    assert record.charged == 2 * trial.report_steps[0] * trial.flops_per_step


def test_a_retry_without_flops_left_ends_failed(small, tmp_path):
    sweep = small(budgets=[1e13], cap={"flops": 1.2e13}, search={"trials": 1})
    engine = engine_in(sweep, tmp_path)
    trial = engine.ask()
    engine.fail(trial.key, "SIGKILL")
    assert engine.ask() is Nothing.LEFT
    assert engine.ledger.record(trial.key).status == "failed"
    assert engine.ledger.record(trial.key).reason.startswith("cap: ")
    assert engine.ledger.committed() <= engine.cap


def test_a_cap_cuts_the_sweep_short(small, tmp_path):
    sweep = small(cap={"flops": 4.5e13}, pruning={"enabled": False})
    simulate.simulate(sweep, tmp_path, slots=3)
    found = table(sweep, tmp_path)
    assert len(found) == 4
    assert (found["status"] == "completed").all()
    ledger = Ledger(tmp_path / "ledger.db")
    assert not status.of(sweep, ledger).stopped  # it may go on
    ledger.write_fact(END, DONE)
    told = status.of(sweep, ledger)
    assert told.stopped.startswith(
        "stopped by cap.flops = 4.5e+13, with 26 of the plan's 30 trials"
    )
    assert told.stopped in told.line()
    provenances.settle(ledger, provenance(sweep))
    ledger.close()
    (tmp_path / "sweep.toml").write_text(tomli_w.dumps(sweep.model_dump(exclude_none=True)))
    assert doubts.of(tmp_path)[0] == told.stopped


class Unlearned:
    """Studies that propose by count and forget everything: no Optuna, so a thousand trials a
    second."""

    vocab_size = 256

    def propose(self, cell, given, rates):
        return given or Setting(learning_rate=0.01 * (1 + cell.number)), 0

    def tell(self, *told):
        pass

    def restore(self, records):
        pass

    def forget_unknown(self, known):
        pass


@pytest.mark.parametrize("seed", range(100))
def test_a_cap_that_runs_out_in_the_middle_is_kept_to_the_flop(small, seed):
    rng = random.Random(seed)
    sweep = small(search={"trials": 2, "extend": False}, resources={"max_attempts": 3})
    cap = round(plan.plan(sweep).flops * rng.uniform(0.02, 0.9)) + rng.randrange(1000)
    ledger = Ledger(Path(":memory:"))
    engine = Engine(sweep, ledger, Unlearned(), cap=cap)
    running, spent = {}, 0
    while True:
        while len(running) < 16 and not isinstance(trial := engine.ask(), Nothing):
            last = ledger.last(trial.key)
            running[trial.key] = [trial, last.step if last else 0, start(engine, trial, Path())]
        if not running:
            break
        key = rng.choice(sorted(running))
        trial, reached, reports = running[key]
        if rng.random() < 0.1:  # all up to the next report may have been spent
            spent += (trial.next_report(reached) - reached) * trial.flops_per_step
            engine.fail(key, "killed by the test")
            del running[key]
        else:
            progress = next(reports)
            spent += (progress.step - reached) * trial.flops_per_step
            running[key][1] = progress.step
            if not engine.report(key, progress, {}):
                del running[key]
        ahead = sum((t.steps - at) * t.flops_per_step for t, at, _ in running.values())
        assert (ledger.charged(), ledger.reserved()) == (spent, ahead)
        assert ledger.committed() <= cap
    asked = {record.key for record in ledger.records()}
    open_cells = [c for b in sweep.budgets for c in engine.agenda.planned(b) if c.key not in asked]
    if open_cells:  # refused, because it would have passed the cap
        assert (
            spent + space.trial(sweep, open_cells[0].asked(Setting(learning_rate=1.0)), 256).flops
            > cap
        )
    sums = [sum(getattr(r, name) for r in ledger.records()) for name in ("charged", "reserved")]
    assert sums == [spent, 0]
    ledger.close()


def test_a_diverged_trial_fails_with_its_place(small, tmp_path):
    engine = engine_in(small(), tmp_path)
    trial = engine.ask()
    first = next(start(engine, trial, tmp_path))
    broken = type(first)(**{**vars(first), "diverged": True, "final": True, "loss": 1e3})
    assert not engine.report(trial.key, broken, {})
    record = engine.ledger.record(trial.key)
    assert record.status == "failed"
    assert record.reason == f"diverged by step {first.step} of {trial.steps}"
    assert record.reserved == 0


def test_a_ladder_that_misses_the_minimum_is_extended(small, tmp_path):
    ladder = [[1, 64], [1, 96], [2, 96], [2, 128], [3, 160], [4, 192], [5, 256], [6, 320], [8, 384]]
    sweep = small(
        budgets=[1e15],
        shapes={"ladder": ladder, "per_budget": 3, "tokens_per_param": 2000},
        law={"noise": 0.0},
        cap={"flops": 1e17},
    )
    simulate.simulate(sweep, tmp_path, slots=2)
    ledger = Ledger(tmp_path / "ledger.db")
    profile = soundness.profile(sweep, ledger, 256, 1e15)
    assert len(profile.window) > 3
    assert min(profile.sides) >= 2
    assert soundness.faults(sweep, ledger, 256) == []
    ledger.close()


@pytest.mark.parametrize("ratio", [0.05, 2000])
@pytest.mark.parametrize("schedule", ["linear", "forks"])
def test_a_ladder_of_its_own_is_lengthened_to_the_minimum(small, ratio, schedule):
    """Built around a guess ten times off in N, it ends before the minimum, or begins after it."""
    sweep = small(
        budgets=[3e14, 1e15], shapes={"per_budget": None, "tokens_per_param": ratio},
        law={"noise": 0.0}, cap={"flops": 1e18}, training={"schedule": schedule},
    )  # fmt: skip
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    ledger = simulation.engine.ledger
    built = set(space.ladder(sweep, 256))
    for budget in sweep.budgets:
        profile = soundness.profile(sweep, ledger, 256, budget)
        assert set(profile.window) > built
        assert min(profile.sides) >= 2
        params = [space.shape(sweep, size, 256).params_non_embedding for size in profile.window]
        assert all(more >= 1.4 * less for less, more in itertools.pairwise(params))
    assert soundness.faults(sweep, ledger, 256) == []


def test_a_written_ladder_is_never_left(small):
    sweep = small(
        budgets=[1e15], law={"noise": 0.0}, cap={"flops": 1e18},
        shapes={"ladder": [[1, 48], [1, 64], [1, 96], [2, 96], [2, 128]], "per_budget": None},
    )  # fmt: skip
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    profile = soundness.profile(sweep, simulation.engine.ledger, 256, 1e15)
    assert profile.window == sweep.shapes.ladder
    assert profile.sides == (4, 0)


def test_a_ladder_of_its_own_ends_where_trials_would_be_too_short(small):
    sweep = small(
        budgets=[1e15], shapes={"per_budget": None, "tokens_per_param": 2000},
        law={"noise": 0.0}, cap={"flops": 1e18}, training={"batch_size": 3000, "min_steps": 300},
    )  # fmt: skip
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    built = space.ladder(sweep, 256)
    profile = soundness.profile(sweep, simulation.engine.ledger, 256, 1e15)
    assert len(profile.window) > len(built)
    steps = [
        space.largest(sweep, Cell(budget=1e15, size=size, number=0, seed=0), 256)[0].steps
        for size in profile.window
    ]
    assert min(steps) >= 300
    assert profile.sides[1] < 2
    # No cap would let it go further.
    ledger = simulation.engine.ledger
    capped = sweep.model_copy(update={"cap": sweep.cap.model_copy(update={"flops": 1.3e16})})
    assert ledger.charged() > 1.3e16
    for given in (sweep, capped):
        (fault,) = soundness.faults(given, ledger, 256)
        assert "2 are wanted: larger ones get too few steps, too little text" in fault


def test_no_cap_is_blamed_for_sizes_that_the_text_forbids(small, tmp_path):
    """The best of a built ladder is its smallest, and smaller ones would see more text."""
    sweep = small(
        budgets=[1e15], shapes={"per_budget": None, "tokens_per_param": 0.05},
        law={"noise": 0.0}, search={"sampler": "grid"},
    )  # fmt: skip
    largest = space.largest(sweep, Cell(budget=1e15, size=space.ladder(sweep, 256)[0], number=0,
                                        seed=0), 256)[0].tokens  # fmt: skip
    engine = engine_in(sweep, tmp_path, max_tokens=largest)
    drive(engine, tmp_path, random.Random(0))
    cap = sweep.cap.model_copy(update={"flops": float(engine.ledger.charged())})
    spent, said = sweep.model_copy(update={"cap": cap}), {}
    for name, text in (("scarce", largest), ("ample", 10**15)):
        settled = replace(provenance(sweep), train_tokens=text)
        engine.ledger.write_fact("provenance", json.dumps(asdict(settled)))
        (said[name],) = soundness.faults(spent, engine.ledger, 256)
    assert "2 are wanted: smaller ones get too few steps, too little text" in said["scarce"]
    assert "2 are wanted: raise cap.flops" in said["ample"]


def test_a_ladder_of_its_own_ends_where_memory_does(small, tmp_path):
    sweep = small(
        budgets=[1e15], shapes={"per_budget": None, "tokens_per_param": 2000},
        law={"noise": 0.0}, cap={"flops": 1e18},
    )  # fmt: skip
    built = space.ladder(sweep, 256)
    longer = space.reach(sweep, 1e15, 256, built, 2)
    last = space.largest(sweep, Cell(budget=1e15, size=longer[-2], number=0, seed=0), 256)[0]
    barely = next(
        slot
        for slot in (Slot(memory=1e5 * 1.01**n) for n in itertools.count())
        if slot.holds(last.shape, last.batch_size, sweep.resources)
    )
    slots.settle(Ledger(tmp_path / "ledger.db"), lambda: barely)
    engine = engine_in(sweep, tmp_path)
    drive(engine, tmp_path, random.Random(0))
    profile = soundness.profile(sweep, engine.ledger, 256, 1e15)
    assert profile.window[-1] == longer[-2]
    assert engine.agenda.possible(1e15, longer) == list(longer[:-1])
    (fault,) = soundness.faults(sweep, engine.ledger, 256)
    assert "2 are wanted: larger ones get too few steps, too little text or too little mem" in fault


def test_a_ladder_of_its_own_is_not_lengthened_where_sizes_fail(small, tmp_path):
    """As those do that do not fit in memory, which costs no FLOPs and so would not end."""
    sweep = small(
        budgets=[1e15], shapes={"per_budget": None, "tokens_per_param": 2000},
        law={"noise": 0.0}, cap={"flops": 1e18},
    )  # fmt: skip
    engine, built = engine_in(sweep, tmp_path), space.ladder(sweep, 256)
    while not isinstance(trial := engine.ask(), Nothing):
        if trial.question.size in built:
            reports = start(engine, trial, tmp_path)
            while engine.report(trial.key, next(reports), {"device": "law"}):
                pass
        else:
            engine.fail(trial.key, "too large", TooLargeError("too large"))
    profile = soundness.profile(sweep, engine.ledger, 256, 1e15)
    assert len(profile.window) == len(built) + 2
    told = "\n".join(soundness.faults(sweep, engine.ledger, 256))
    first, second = (f"{n}x{d}" for n, d in profile.window[-2:])
    assert (
        f"2 are wanted: {first} failed (too large), {second} failed (too large): mend the cause, "
        "and run the file with another --dir"
    ) in told


@pytest.mark.parametrize("end", ["interrupted", DONE])
def test_a_size_whose_rates_are_not_all_asked_is_not_given_up(small, tmp_path, end):
    sweep = small(budgets=[1e13], pruning={"enabled": False})
    engine = engine_in(sweep, tmp_path)
    first = sorted([engine.ask() for _ in range(5)], key=lambda t: t.shape.params_non_embedding)
    for trial in first[:3]:
        for progress in start(engine, trial, tmp_path):
            engine.report(trial.key, progress, {})
    for trial in first[3:]:
        engine.fail(trial.key, "diverged by step 10 of 100", FinalError())
    engine.ledger.write_fact(END, end)
    cap = sweep.cap.model_copy(update={"flops": float(engine.ledger.charged())})
    told = str(soundness.faults(sweep.model_copy(update={"cap": cap}), engine.ledger, 256))
    assert "another --dir" not in told
    assert ("raise cap.flops" if end == DONE else "let the sweep come to its end") in told
    told = str(soundness.faults(sweep, engine.ledger, 256))
    assert ("): lower search.learning_rate, and" in told) == (end == DONE), "nothing more will come"


UNSOUND = [
    # shapes, search, cap, what is said of the sizes
    ({"ladder": [[3, 176], [4, 272], [6, 352]], "per_budget": 3}, {}, 1e18,
     "1 completed sizes below and 1 above; 2 are wanted: shapes.ladder is kept as it is written: "
     "add further sizes, or leave it out and search.extend adds them"),
    ({"ladder": [[1, 16], [1, 24], [1, 32], [1, 48]], "per_budget": None}, {"extend": False}, 1e18,
     "0 above; 2 are wanted: shapes.ladder is kept as it is written: add larger sizes, or leave it "
     "out and search.extend = true adds them"),
    ({"per_budget": 3, "tokens_per_param": 2000}, {"extend": False}, 1e18,
     "0 above; 2 are wanted: set search.extend = true, or raise shapes.per_budget"),
    ({"per_budget": None, "tokens_per_param": 2000}, {"extend": False}, 1e18,
     "0 above; 2 are wanted: set search.extend = true, or write a longer shapes.ladder"),
    ({"per_budget": None, "tokens_per_param": 2000}, {}, None,
     "0 above; 2 are wanted: raise cap.flops"),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "search", "cap", "said"), UNSOUND)
def test_the_remedy_follows_from_the_file(small, shapes, search, cap, said):
    sweep = small(
        budgets=[1e15], shapes=shapes, law={"noise": 0.0}, cap={"flops": cap} if cap else {},
        search={"sampler": "grid", "warm_start": False, **search}, pruning={"enabled": False},
    )  # fmt: skip
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    (fault,) = soundness.faults(sweep, simulation.engine.ledger, 256)
    assert said in fault


def test_a_sweep_that_is_not_over_is_not_blamed(small):
    sweep = small(budgets=[1e15], shapes={"per_budget": 3, "tokens_per_param": 2000})
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    simulation.engine.ledger.write_fact(END, "interrupted")
    fault = soundness.faults(sweep, simulation.engine.ledger, 256)[0]
    assert "2 are wanted: let the sweep come to its end (isoflop resume" in fault


def test_too_few_steps_are_said(small):
    sweep = small(budgets=[1e13], sound_steps=10**9)
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    said = "\n".join(soundness.faults(sweep, simulation.engine.ledger, 256))
    assert "steps, below sound_steps = 1000000000: lower training.batch_size" in said


RATES = [
    # trials, range, other settings, what is said; the best rate is .01
    (4, (1e-3, 4e-3), {"sampler": "random"},
     "is near the end of the range searched, 0.001 to 0.004: widen search.learning_rate, "
     "or set search.extend = true"),
    (8, (1e-3, 4e-3), {"sampler": "grid"},
     "is near the end of the range searched, 0.001 to 0.004: widen search.learning_rate, "
     "or set search.extend = true"),
    (16, (3e-2, 1.2e-1), {"sampler": "random", "limits": [1e-2, 1.2e-1]},
     "is near the end of the range searched, 0.03 to 0.12: widen search.learning_rate and, as far "
     "as such rates are allowed, search.limits, or set search.extend = true"),
    (2, (1e-3, 2.5e-2), {"sampler": "grid"},
     "is on the edge of those tried at its size, 0.00224 to 0.0112: raise search.trials, "
     "or set search.extend = true"),
    (6, (1e-3, 1e-1), {"sampler": "grid"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("trials", "rates", "settings", "said"), RATES)
def test_an_edge_of_the_rates_is_judged_by_the_range_too(small, trials, rates, settings, said):
    search = {"trials": trials, "learning_rate": rates, "extend": False, "warm_start": False}
    sweep = small(
        budgets=[1e14], shapes={"per_budget": 5}, pruning={"enabled": False},
        law={"learning_rate": 0.01, "curvature": 0.3, "noise": 0.0}, search=search | settings,
    )  # fmt: skip
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    found = soundness.faults(sweep, simulation.engine.ledger, 256)
    edges = [fault for fault in found if "the best learning rate" in fault]
    assert len(edges) == (said is not None)
    assert not said or said in edges[0]


@pytest.mark.parametrize(("limits", "tried"), [(None, 0.02), ([1e-3, 5e-3], 5e-3)])
def test_a_rate_near_the_end_of_the_range_is_followed_as_far_as_limits_go(small, limits, tried):
    sweep = small(
        budgets=[1e14], shapes={"per_budget": 5}, cap={"flops": 1e18}, pruning={"enabled": False},
        law={"learning_rate": 0.02, "curvature": 0.3, "noise": 0.0},
        search={"trials": 16, "learning_rate": [1e-3, 4e-3], "sampler": "random",
                "warm_start": False, "limits": limits},
    )  # fmt: skip
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    profile = soundness.profile(sweep, simulation.engine.ledger, 256, 1e14)
    assert profile.rates[1] >= tried
    said = soundness.faults(sweep, simulation.engine.ledger, 256)
    assert bool(said) == (limits is not None)


def test_optuna_hears_the_truth(small, tmp_path):
    sweep = small()
    simulate.simulate(sweep, tmp_path, slots=3)
    ledger = Ledger(tmp_path / "ledger.db")
    studies = Studies(sweep, tmp_path / "study.db", 256)
    states = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for record in ledger.records():
        told = studies.trials(record.question.budget)[record.optuna]
        reports = ledger.reports(record.key)
        assert told.state.name == states[record.status]
        assert told.params["learning_rate"] == record.question.learning_rate
        assert list(told.intermediate_values.values()) == [p.loss for p in reports]
        if record.status == "completed":
            assert told.value == reports[-1].loss
    ledger.close()


def test_a_kill_between_optuna_and_the_ledger_leaves_no_ghost(small, tmp_path):
    sweep = small(search={"extend": False})
    engine = engine_in(sweep, tmp_path)
    engine.studies.propose(next(engine.agenda.cells()), None, (2e-3, 2e-1))  # asked, never entered
    study = engine.studies._studies[1e13]
    study.enqueue_trial({"learning_rate": 0.01})  # enqueued, never asked
    again = engine_in(sweep, tmp_path)
    assert [t.state.name for t in again.studies.trials(1e13)] == ["FAIL", "FAIL"]
    simulate.simulate(sweep, tmp_path, slots=2)
    assert len(table(sweep, tmp_path)) == plan.plan(sweep).trials


@pytest.mark.parametrize("searched", [{}, {"batch_size": [2, 4]}])
def test_what_a_power_cut_took_from_the_studies_comes_back(small, tmp_path, searched):
    sweep = small(search={"trials": 4, **searched})
    drive(engine_in(sweep, tmp_path), tmp_path, random.Random(0), stop_after=40)
    known = engine_in(sweep, tmp_path)
    before = {b: [(t.state, t.params, t.value) for t in known.studies.trials(b)]
              for b in sweep.budgets}  # fmt: skip
    known.ledger.close()
    (tmp_path / "study.db").unlink()  # the ledger waits for the disk, Optuna does not
    again = engine_in(sweep, tmp_path)
    for budget, told in before.items():
        assert [(t.state, t.params, t.value) for t in again.studies.trials(budget)] == told
    drive(again, tmp_path, random.Random(1))
    assert not again.ledger.records("running", "waiting")


def test_seeds_share_their_rate(small, tmp_path):
    sweep = small(budgets=[1e13], search={"seeds": 2, "trials": 2})
    simulate.simulate(sweep, tmp_path, slots=3)
    found = table(sweep, tmp_path)
    cells = found.groupby(found["trial"].str.rsplit("-", n=1).str[0])
    assert all(set(cell["seed"]) == {0, 1} for _, cell in cells)
    assert all(len(set(cell["learning_rate"])) == 1 for _, cell in cells)


def test_nothing_is_added_twice(small):
    """With one slot nothing of a budget runs whenever the next of its added cells is asked."""
    sweep = small(search={"trials": 3, "learning_rate": [3e-4, 1e-3]})
    simulation = simulate.in_memory(sweep)
    assert list(simulation)
    for budget in sweep.levels:
        added = simulation.engine.agenda._added(budget)
        rates = [(cell.size, cell.setting, cell.seed) for cell in added if cell.setting]
        assert 1 < len(rates) == len(set(rates))


def test_a_range_that_misses_the_best_rate_is_extended(small, tmp_path):
    sweep = small(
        budgets=[1e14],
        search={"sampler": "grid", "trials": 3, "learning_rate": [2e-3, 8e-3], "repeats": 0},
        law={"learning_rate": 0.03, "curvature": 0.3, "noise": 0.001},
        cap={"flops": 1e17},
    )
    simulate.simulate(sweep, tmp_path, slots=2)
    ledger = Ledger(tmp_path / "ledger.db")
    profile = soundness.profile(sweep, ledger, 256, 1e14)
    assert profile.rates[1] > 0.03
    assert 0.015 < profile.best.question.learning_rate < 0.06
    assert soundness.faults(sweep, ledger, 256) == []
    ledger.close()


def test_the_best_cell_is_run_with_another_seed(small, tmp_path):
    sweep = small(cap={"flops": 1e17}, search={"repeats": 2})
    simulate.simulate(sweep, tmp_path, slots=3)
    found = table(sweep, tmp_path)
    ledger = Ledger(tmp_path / "ledger.db")
    for budget in sweep.budgets:
        best = soundness.profile(sweep, ledger, 256, budget).best.question
        mine = found[(found["budget"] == budget) & (found["learning_rate"] == best.learning_rate)]
        seeds = mine[(mine["d_model"] == best.size[1]) & (mine["status"] == "completed")]["seed"]
        assert set(seeds) == {0, 1, 2}
    ledger.close()


def test_a_sweep_of_failures_alone_is_given_up(small, tmp_path):
    engine = engine_in(small(resources={"max_attempts": 1}), tmp_path)
    started = 0
    while not isinstance(trial := engine.ask(), Nothing):
        engine.fail(trial.key, "NameError: no such thing")
        started += 1
    assert (trial, started) == (Nothing.LEFT, 6)
    assert engine.hopeless == "NameError: no such thing"


def test_one_success_is_hope(small, tmp_path):
    engine = engine_in(small(resources={"max_attempts": 1}), tmp_path)
    first = engine.ask()
    for progress in start(engine, first, tmp_path):
        engine.report(first.key, progress, {})
    for _ in range(8):
        engine.fail(engine.ask().key, "unlucky")
    assert not engine.hopeless


@pytest.mark.parametrize("cap", [{"seconds": 40.0}, {"money": 0.02, "price_per_hour": 1.8}])
def test_time_and_money_are_hard_stops(small, tmp_path, cap):
    sweep = small(
        budgets=[1e13], cap=cap, resources={"flops_per_second": 1e12}, pruning={"enabled": False}
    )
    simulate.simulate(sweep, tmp_path, slots=2)  # a trial takes ten simulated seconds
    ledger = Ledger(tmp_path / "ledger.db")
    assert 30 <= ledger.seconds() <= 40
    assert ledger.counts() == {"completed": 4}
    ledger.write_fact(END, DONE)
    told = status.of(sweep, ledger).stopped
    assert told.startswith(
        f"stopped by cap.{next(iter(cap))} = {next(iter(cap.values())):g}, with "
    )
    ledger.close()


def test_a_trial_slower_than_planned_is_stopped_at_its_next_report(small, tmp_path):
    sweep = small(budgets=[1e13], cap={"seconds": 40.0}, resources={"flops_per_second": 1e12})
    engine, now = engine_in(sweep, tmp_path), [0.0]
    engine.meter = Meter(sweep, engine.ledger, lambda: now[0])
    trial = engine.ask()
    now[0] = 500.0  # Ray asks long before it has a slot: this is nobody's time
    engine.begin(trial.key)
    told = []
    for progress in start(engine, trial, tmp_path):
        now[0] += 30.0
        told.append(engine.report(trial.key, progress, {}))
        if not told[-1]:
            break
    assert told == [True, False]
    assert engine.ledger.record(trial.key).reason == "cap: the sweep's time is spent"
    assert engine.ask() is Nothing.LEFT


def test_time_is_booked_across_deaths(small, tmp_path):
    sweep = small(budgets=[1e13], resources={"flops_per_second": 1e12}, search={"trials": 1})
    engine, now = engine_in(sweep, tmp_path), [0.0]
    engine.meter = Meter(sweep, engine.ledger, lambda: now[0])
    trial = engine.ask()
    engine.begin(trial.key)
    now[0] = 7.0
    engine.fail(trial.key, "SIGKILL")
    assert engine.ledger.record(trial.key).seconds == 7.0
    assert engine.ask() == trial
    engine_in(sweep, tmp_path)  # the driver died: what may be lost is booked at the sweep's speed
    quarter = trial.report_steps[0] * trial.flops_per_step
    speed = quarter / 7.0
    assert engine.ledger.record(trial.key).seconds == pytest.approx(7.0 + quarter / speed)


def test_silence_is_noticed_and_a_report_breaks_it(small, tmp_path):
    patience = 20.0
    engine, now = engine_in(small(resources={"silence": patience}), tmp_path), [0.0]
    engine.meter = Meter(engine.sweep, engine.ledger, lambda: now[0])
    first, pending = engine.ask(), engine.ask()
    engine.begin(first.key)
    now[0] = patience
    assert not engine.silent()
    engine.report(first.key, next(start(engine, first, tmp_path)), {})
    now[0] = 2 * patience
    assert not engine.silent()
    now[0] += 1.0
    assert engine.silent() == {first.key: patience + 1.0}
    assert pending.key not in engine.silent()  # it waits for a slot


def test_a_slow_trial_is_given_ten_times_what_its_report_should_take(small, tmp_path):
    engine, now = engine_in(small(resources={"flops_per_second": 1e10}), tmp_path), [0.0]
    engine.meter = Meter(engine.sweep, engine.ledger, lambda: now[0])
    trial = engine.ask()
    engine.begin(trial.key)
    due = trial.report_steps[0] * trial.flops_per_step / 1e10
    assert due > 60.0
    now[0] = 9.9 * due
    assert not engine.silent()
    now[0] = 10.1 * due
    assert engine.silent()


def test_no_trial_is_given_less_than_ten_minutes(small, tmp_path):
    engine, now = engine_in(small(resources={"flops_per_second": 1e18}), tmp_path), [0.0]
    engine.meter = Meter(engine.sweep, engine.ledger, lambda: now[0])
    engine.begin(engine.ask().key)
    now[0] = 599.0
    assert not engine.silent()
    now[0] = 601.0
    assert engine.silent()


def test_out_of_memory_is_retried_once_at_half(small, tmp_path):
    engine = engine_in(small(), tmp_path)
    trial = engine.ask()
    engine.fail(trial.key, "out of memory at 4 sequences at once", OutOfMemoryError(4))
    record = engine.ledger.record(trial.key)
    assert (record.status, record.micro_batch_size) == ("waiting", 2)
    assert engine.ask() == trial
    engine.fail(trial.key, "out of memory at 2 sequences at once", OutOfMemoryError(2))
    record = engine.ledger.record(trial.key)
    assert (record.status, record.reason) == ("failed", "out of memory at 2 sequences at once")


def test_one_sequence_too_large_is_not_retried(small, tmp_path):
    engine = engine_in(small(), tmp_path)
    trial = engine.ask()
    engine.fail(trial.key, "out of memory at 1 sequences at once", OutOfMemoryError(1))
    assert engine.ledger.record(trial.key).status == "failed"


def test_memory_that_runs_out_changes_no_row(settled, tmp_path):
    calm = settled(budgets=[1e13], cap={"flops": 1e17})
    tight = settled(budgets=[1e13], cap={"flops": 1e17}, law={"faults": {"exhausts": 0.5}})
    simulate.simulate(calm, tmp_path / "calm", slots=2)
    simulate.simulate(tight, tmp_path / "tight", slots=2)
    pd.testing.assert_frame_equal(table(tight, tmp_path / "tight"), table(calm, tmp_path / "calm"))
    ledger = Ledger(tmp_path / "tight" / "ledger.db")
    limits = {record.micro_batch_size for record in ledger.records()}
    assert limits == {None, 2}
    ledger.close()


def test_hope_waits_for_what_runs(small, tmp_path):
    engine = engine_in(small(resources={"max_attempts": 1}), tmp_path)
    good = engine.ask()
    for _ in range(6):
        engine.fail(engine.ask().key, "unlucky")
    assert engine.ask() is Nothing.YET
    for progress in start(engine, good, tmp_path):
        engine.report(good.key, progress, {})
    assert not isinstance(engine.ask(), Nothing)


def a_ray_trial(error_file):
    return SimpleNamespace(
        trial_id="ray's", pickled_error_file=error_file, metric_analysis={}, metric_n_steps={}
    )


def test_a_trial_that_crashes_on_a_cluster_is_given_up(small, tmp_path, monkeypatch):
    """Dying faster than a lost machine is noticed, it must not be let off forever."""
    now = [0.0]
    monkeypatch.setattr(driver, "Losses", lambda: Losses.__new__(Losses))
    monkeypatch.setattr(Losses, "look", lambda self: None)
    monkeypatch.setattr(Losses, "possible", True)
    monkeypatch.setattr(Losses, "_last", -math.inf, raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    engine = engine_in(small(resources={"max_attempts": 3}, cap={"flops": 1e17}), tmp_path)
    lives = driver.Driver(engine, None).lives
    trial = engine.ask()
    died = a_ray_trial(None)
    for _ in range(20):
        now[0] += 5  # a worker starts and dies
        lives.driver.bundles["ray's"] = bundle_of(trial)
        lives.on_trial_error(0, [], died)
        if engine.ledger.record(trial.key).status == "failed":
            break
        assert engine.ask() == trial
        lives.on_step_end(0, [])
    record = engine.ledger.record(trial.key)
    assert (record.status, record.reason) == ("failed", "its worker died")
    assert record.attempts <= 3 + 2 + GRACE / 5


@pytest.mark.parametrize(("machine_lost", "status"), [(True, "waiting"), (False, "failed")])
def test_a_lost_machine_costs_a_trial_on_several_no_attempt(
    small, tmp_path, monkeypatch, machine_lost, status
):
    now = [0.0]
    monkeypatch.setattr(driver, "Losses", lambda: Losses.__new__(Losses))
    monkeypatch.setattr(Losses, "look", lambda self: None)
    monkeypatch.setattr(Losses, "possible", True)
    monkeypatch.setattr(Losses, "_last", 1.0 if machine_lost else -math.inf, raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    engine = engine_in(small(resources={"max_attempts": 1}, cap={"flops": 1e17}), tmp_path)
    lives, trial = driver.Driver(engine, None).lives, engine.ask()
    lives.driver.bundles["ray's"] = bundle_of(trial)
    error = RayTaskError("run_trial", "a trace", WorkerLostError("RuntimeError: closed by peer"))
    (tmp_path / "error").write_bytes(pickle.dumps(error))
    died = a_ray_trial(str(tmp_path / "error"))
    lives.on_trial_error(0, [], died)
    assert engine.ledger.record(trial.key).status == "waiting"
    now[0] = GRACE + 5
    lives.on_step_end(0, [])
    assert engine.ledger.record(trial.key).status == status


def test_a_process_that_ends_without_a_last_report_hands_its_trial_back_once(small, tmp_path):
    engine = engine_in(small(cap={"flops": 1e17}), tmp_path)
    lives, trial = driver.Driver(engine, None).lives, engine.ask()
    lives.driver.bundles["ray's"] = bundle_of(trial)
    ended = a_ray_trial(None)
    lives.on_trial_complete(0, [], ended)
    record = engine.ledger.record(trial.key)
    assert (record.status, engine.ledger.deaths(trial.key)) == ("waiting", 1)
    lives.on_trial_error(0, [], ended)  # Ray, after another callback failed
    assert engine.ledger.record(trial.key) == record


def test_a_service_may_take_as_long_as_its_client_waits(small, tmp_path):
    """Answers from its record are instant, so the sweep's own speed says nothing of a training."""
    now = [0.0]
    sweep = small(
        backend="api", budgets=[1e13], resources={"flops_per_second": 1e12},
        api={"timeout": 5000.0, "patience": 500.0, "key_file": "key"},
        search={"sampler": "qmc", "warm_start": False, "extend": False, "repeats": 0},
        pruning={"rungs": []},
    )  # fmt: skip
    engine = engine_in(sweep, tmp_path, clock=lambda: now[0])
    quick, slow = engine.ask(), engine.ask()
    engine.begin(quick.key)
    engine.begin(slow.key)
    now[0] = 1.0
    engine.meter.book(quick.key)
    now[0] = 5499.0
    assert slow.key not in engine.silent()
    now[0] = 5501.0
    assert slow.key in engine.silent()


def test_interruptions_of_the_sweep_are_no_deaths_of_a_trial(small, tmp_path):
    sweep = small(resources={"max_attempts": 2}, cap={"flops": 1e17})
    trial = engine_in(sweep, tmp_path).ask()
    for _ in range(5):
        assert engine_in(sweep, tmp_path).ask() == trial
    record = engine_in(sweep, tmp_path).ledger.record(trial.key)
    assert (record.status, record.attempts) == ("waiting", 6)


def test_a_trial_entered_but_never_started_is_not_left_waiting(small, tmp_path):
    sweep = small(budgets=[1e13], cap={"flops": 1e13})
    engine = engine_in(sweep, tmp_path)
    for cell in list(engine.agenda.cells())[:2]:
        rate, optuna = engine.studies.propose(cell, None, (2e-3, 2e-1))
        engine.ledger.add(cell.asked(rate), optuna)
    first = engine.ask()
    assert engine.ask() is Nothing.YET
    for progress in start(engine, first, tmp_path):
        engine.report(first.key, progress, {})
    assert engine.ask() is Nothing.LEFT
    assert engine.ledger.counts() == {"completed": 1, "failed": 1}


@pytest.mark.parametrize("room", [True, False])
def test_work_repeated_without_its_checkpoint_is_charged(small, tmp_path, room):
    sweep = small(budgets=[1e13], pruning={"enabled": False}, search={"trials": 1})
    engine = engine_in(sweep, tmp_path)
    engine.cap = 2.1e13 if room else 1.3e13
    trial = engine.ask()
    reports = start(engine, trial, tmp_path)
    seen = [next(reports) for _ in range(2)]
    for progress in seen:
        engine.report(trial.key, progress, {}, began=0)
    engine.fail(trial.key, "its node is gone")
    assert engine.ask() == trial
    before = engine.ledger.record(trial.key).charged
    goes_on = engine.report(trial.key, seen[0], {}, began=0)
    record = engine.ledger.record(trial.key)
    assert goes_on is room
    assert record.charged - before == (seen[1] if room else seen[0]).flops, "it was computed"
    assert engine.ledger.committed() <= engine.cap
    if room:
        assert engine.report(trial.key, seen[1], {}, began=0)
        assert engine.ledger.record(trial.key).charged == record.charged
    else:
        assert record.reason.startswith("cap: its checkpoint is gone")


@pytest.mark.parametrize("known", [1, 2])
def test_training_anew_to_the_only_report_is_charged_too(small, tmp_path, known):
    sweep = small(budgets=[1e13], pruning={"enabled": False}, search={"trials": 1})
    engine = engine_in(sweep, tmp_path)
    engine.cap = 3e13
    trial = engine.ask()
    reports = start(engine, trial, tmp_path)
    seen = [next(reports) for _ in range(known)]
    for progress in seen:
        engine.report(trial.key, progress, {}, began=0)
    engine.fail(trial.key, "its node is gone")
    engine.ask()
    before = engine.ledger.record(trial.key).charged
    for _ in range(2):  # told twice, it is charged once
        for progress in seen:
            assert engine.report(trial.key, progress, {}, began=0)
    assert engine.ledger.record(trial.key).charged - before == seen[-1].flops


@pytest.mark.parametrize("sampler", ["grid", "qmc"])
def test_designed_rates_are_tried_as_designed(small, tmp_path, sampler):
    sweep = small(budgets=[1e13], search={"sampler": sampler, "trials": 3, "extend": False})
    simulate.simulate(sweep, tmp_path, slots=2)
    rates = table(sweep, tmp_path).groupby("d_model")["learning_rate"].apply(sorted)
    assert all(len(set(found)) == 3 for found in rates)
    if sampler == "grid":
        assert all(found == sorted(space.rates(sweep.search.learning_rate, 3)) for found in rates)


def test_sizes_that_get_no_step_or_not_enough_text_are_left_out(small, tmp_path):
    ladder = [[1, 16], [1, 24], [1, 32], [2, 32], [2, 64], [60, 4096]]
    sweep = small(budgets=[1e11], shapes={"ladder": ladder, "per_budget": 4})
    engine = engine_in(sweep, tmp_path)
    sizes = [tuple(size) for size in ladder]
    assert engine.agenda.possible(1e11, sizes) == sizes[:-1]
    tokens = {s: space.trial(sweep, cell.asked(Setting(learning_rate=1.0)), 256).tokens
              for s in sizes for cell in space.cells(sweep, 1e11, [s])[:1]}  # fmt: skip
    engine.agenda.max_tokens = tokens[1, 24]
    assert engine.agenda.possible(1e11, sizes) == sizes[1:-1]


def cut_by_time(small, folder):
    """The engine of a sweep whose time is spent: a trial completed, and two are cut half-way."""
    sweep = small(
        budgets=[1e13], cap={"seconds": 40.0}, resources={"flops_per_second": 1e12},
        search={"trials": 1, "extend": False}, pruning={"enabled": False},
    )  # fmt: skip
    engine, now = engine_in(sweep, folder), [0.0]
    engine.meter = Meter(sweep, engine.ledger, lambda: now[0])
    first, *late = [engine.ask() for _ in range(3)]
    engine.begin(first.key)
    for progress in start(engine, first, folder):
        now[0] += 2.0
        engine.report(first.key, progress, {})
    for trial in late:
        engine.begin(trial.key)
    for trial in late:
        reports = start(engine, trial, folder)
        while engine.report(trial.key, next(reports), {}):
            now[0] += 16.0
    assert engine.ask() is Nothing.LEFT
    assert [engine.ledger.record(trial.key).is_cut for trial in late] == [True, True]
    engine.ledger.close()
    return sweep, late


def raised(sweep, folder, **cap):
    """An engine that goes on with the sweep in `folder` under another cap."""
    higher = sweep.model_copy(update={"cap": sweep.cap.model_copy(update=cap)})
    return engine_in(higher, folder)


def test_what_a_cap_cut_goes_on_once_it_is_raised(small, tmp_path):
    sweep, late = cut_by_time(small, tmp_path)
    engine = raised(sweep, tmp_path, seconds=4000.0)
    before = {trial.key: engine.ledger.record(trial.key) for trial in late}
    assert {record.status for record in before.values()} == {"waiting"}
    assert all(record.charged for record in before.values())
    drive(engine, tmp_path, random.Random(0))
    for record in engine.ledger.records():
        trial = engine.trial(record)
        assert (record.status, record.charged, record.reserved) == ("completed", trial.flops, 0)
        assert record.attempts == (2 if record.key in before else 1)
        told = engine.studies.trials(1e13)
        assert told[record.optuna].state.name == "COMPLETE"
        assert told[record.optuna].user_attrs["trial"] == record.key
        assert told[record.optuna].params["learning_rate"] == record.question.learning_rate
        losses = [progress.loss for progress in engine.ledger.reports(record.key)]
        assert list(told[record.optuna].intermediate_values.values()) == losses
    states = [told.state.name for told in engine.studies.trials(1e13)]
    assert sorted(states) == ["COMPLETE"] * 5 + ["FAIL"] * 2
    assert engine.ledger.charged() == sum(engine.trial(r).flops for r in engine.ledger.records())


def test_a_resumed_sweep_tries_nothing_again_that_its_cap_still_forbids(small, tmp_path):
    sweep, _ = cut_by_time(small, tmp_path)
    for _ in range(2):
        engine = engine_in(sweep, tmp_path)
        assert engine.ask() is Nothing.LEFT
        assert engine.ledger.counts() == {"completed": 1, "failed": 2}
        assert len(engine.studies.trials(1e13)) == 3
        engine.ledger.close()
    engine = raised(sweep, tmp_path, seconds=44.0)
    assert engine.ledger.counts() == {"completed": 1, "failed": 2}, "no room for the rest of one"


def test_a_kill_while_the_cut_are_put_back_leaves_no_ghost(small, tmp_path, monkeypatch):
    sweep, _ = cut_by_time(small, tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "put_back", killed)
        with pytest.raises(KeyboardInterrupt):
            raised(sweep, tmp_path, seconds=4000.0)
    engine = raised(sweep, tmp_path, seconds=4000.0)
    states = [told.state.name for told in engine.studies.trials(1e13)]
    assert states == ["COMPLETE", "FAIL", "FAIL", "FAIL", "RUNNING", "RUNNING"]
    known = engine_in(engine.sweep, tmp_path)
    assert [told.state.name for told in known.studies.trials(1e13)] == states


def test_a_retry_that_the_cap_forbade_is_made_once_it_is_raised(small, tmp_path):
    sweep = small(budgets=[1e13], cap={"flops": 1.2e13}, search={"trials": 1, "extend": False})
    engine = engine_in(sweep, tmp_path)
    trial = engine.ask()
    engine.fail(trial.key, "SIGKILL")
    assert engine.ask() is Nothing.LEFT
    paid = engine.ledger.charged()
    engine.ledger.close()
    engine = raised(sweep, tmp_path, flops=1.3e13)
    assert engine.ask() == trial
    for progress in start(engine, trial, tmp_path):
        engine.report(trial.key, progress, {})
    assert engine.ledger.charged() == paid + trial.flops


def test_a_trial_that_must_begin_anew_waits_for_room_for_all_of_it(small, tmp_path):
    sweep = small(budgets=[1e13], pruning={"enabled": False}, search={"trials": 1, "extend": False})
    engine = raised(sweep, tmp_path, flops=1.3e13)
    trial = engine.ask()
    for progress, _ in zip(start(engine, trial, tmp_path), range(2), strict=False):
        engine.report(trial.key, progress, {}, began=0)
    engine.fail(trial.key, "its node is gone")
    engine.ask()
    before, reserved = engine.ledger.charged(), engine.ledger.record(trial.key).reserved
    assert not engine.report(trial.key, progress, {}, began=0)
    charged = engine.ledger.charged()
    assert charged == before + min(reserved, progress.flops), "what it repeated was computed"
    assert engine.ledger.record(trial.key).begins_anew
    engine.ledger.close()
    for cap, status_ in ((1.3e13, "failed"), (charged + 0.9e13, "failed"), (3e13, "waiting")):
        ledger = Ledger(tmp_path / "ledger.db")
        ledger.write_fact(END, DONE)
        given = sweep.model_copy(update={"cap": sweep.cap.model_copy(update={"flops": cap})})
        told = status.of(given, ledger).stopped
        assert told.endswith("isoflop resume" if status_ == "waiting" else "the same --dir")
        ledger.close()
        engine = raised(sweep, tmp_path, flops=cap)
        assert engine.ledger.record(trial.key).status == status_
        engine.ledger.close()


def test_what_a_cap_cut_does_not_make_a_sweep_hopeless(small, tmp_path, monkeypatch):
    sweep = small(
        budgets=[1e13], cap={"seconds": 40.0}, resources={"flops_per_second": 1e12},
        pruning={"enabled": False},
    )  # fmt: skip
    engine, now = engine_in(sweep, tmp_path), [0.0]
    engine.meter = Meter(sweep, engine.ledger, lambda: now[0])
    monkeypatch.setattr(Meter, "allows", lambda meter, _: not meter.spent)
    trials = [engine.ask() for _ in range(8)]
    running = [(trial, start(engine, trial, tmp_path)) for trial in trials]
    for trial, reports in running:
        engine.begin(trial.key)
        assert engine.report(trial.key, next(reports), {})
    now[0] = 50.0
    for trial, reports in running:
        assert not engine.report(trial.key, next(reports), {})
    assert engine.ledger.counts() == {"failed": 8} and not engine.hopeless
    engine.ledger.close()
    monkeypatch.undo()
    engine = raised(sweep, tmp_path, seconds=500.0)  # room for two of them
    assert engine.ledger.counts() == {"failed": 6, "waiting": 2}
    drive(engine, tmp_path, random.Random(0))
    assert engine.ledger.counts()["completed"] >= 2


def test_a_cap_raised_for_one_of_two_lets_one_go_on(small, tmp_path):
    sweep, late = cut_by_time(small, tmp_path)
    engine = engine_in(sweep, tmp_path)
    spent, speed = engine.ledger.seconds(), engine.ledger.charged() / engine.ledger.seconds()
    halves, whole = (late[0].flops / 2 / speed, late[0].flops / speed)
    engine.ledger.close()
    engine = raised(sweep, tmp_path, seconds=spent + 1.1 * halves)
    one = [engine.ledger.record(trial.key).status for trial in late]
    assert one == ["waiting", "failed"]
    engine.forgo(late[1].key)
    engine.forgo(late[0].key)  # it waits: nothing of it is given up
    engine.ledger.close()
    engine = raised(sweep, tmp_path, seconds=spent + 1.1 * (halves + halves))
    assert [engine.ledger.record(trial.key).status for trial in late] == one, (
        "no room for all of it"
    )
    engine.ledger.close()
    engine = raised(sweep, tmp_path, seconds=spent + 1.1 * (halves + whole))
    assert [engine.ledger.record(trial.key).status for trial in late] == ["waiting", "waiting"]


def test_an_entry_made_again_is_its_first_over(small, tmp_path):
    """With another range than its neighbors' a sampler would no longer model the rate."""
    sweep = small(budgets=[1e13])
    studies = Studies(sweep, tmp_path / "study.db", 256)
    cell = space.cells(sweep, 1e13, space.window(sweep, 1e13, 256))[0]
    _, number = studies.propose(cell, None, (0.01, 0.02))
    studies.tell(1e13, number, "failed", [], 1)
    first, again = (studies.trials(1e13)[n] for n in (number, studies.again(1e13, number)))
    assert (first.state.name, again.state.name) == ("FAIL", "RUNNING")
    assert (again.params, again.user_attrs) == (first.params, first.user_attrs)
    assert again.distributions == first.distributions
    assert again.distributions["learning_rate"].high == 0.02


def test_a_power_cut_leaves_a_narrowed_range_as_it_was(small, tmp_path):
    sweep = small(budgets=[1e14], explore={"budget": 1e13, "trials": 4, "within": 3.0})
    engine = engine_in(sweep, tmp_path)
    drive(engine, tmp_path, random.Random(0), stop_after=60)
    *_, last = [r for r in engine.ledger.records() if r.question.budget == 1e14]
    entry = engine.studies.trials(1e14)[last.optuna].distributions
    assert entry["learning_rate"].high < sweep.search.learning_rate[1]
    assert engine.studies._entered(last.question).distributions == entry


@pytest.mark.parametrize("schedule", ["cosine", "forks"])
def test_cut_and_raised_again_and_again_it_ends_as_undisturbed(
    small, tmp_path, schedule, monkeypatch
):
    # Time is up in the middle of trials: slots are slower than it reckons.
    monkeypatch.setattr(Meter, "allows", lambda meter, _: not meter.spent)

    def capped(seconds):
        return small(
            **SETTLED, training={"schedule": schedule}, cap={"seconds": seconds},
            resources={"flops_per_second": 1e12},
        )  # fmt: skip

    cuts = 0
    for seconds in (90.0, 235.0, 610.0, 1e5):
        simulate.simulate(capped(seconds), tmp_path / "cut", slots=3)
        ledger = Ledger(tmp_path / "cut" / "ledger.db")
        cuts += sum(record.is_cut for record in ledger.records())
        charged = ledger.charged()
        ledger.close()
    simulate.simulate(capped(1e5), tmp_path / "calm", slots=3)
    told, calm = (table(capped(1e5), tmp_path / name) for name in ("cut", "calm"))
    by = ["budget", "num_layers", "d_model", "learning_rate"]
    pd.testing.assert_frame_equal(
        told.drop(columns="trial").sort_values(by, ignore_index=True),
        calm.drop(columns="trial").sort_values(by, ignore_index=True),
    )
    assert cuts
    assert charged == Ledger(tmp_path / "calm" / "ledger.db").charged()
