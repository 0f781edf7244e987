"""Two stages, and the search over more than learning rates."""

import json

import pandas as pd
import pytest
from driving import table

from tuner import plan, simulate, status
from tuner.ledger import Ledger


def ran(sweep, folder, slots=3):
    """The records of a sweep in simulated time, as a table."""
    simulate.simulate(sweep, folder, slots=slots)
    return table(sweep, folder)


EXPLORE = {"budget": 1e12, "trials": 6, "within": 2.0}


def test_profiles_search_around_what_stage_one_found(small, tmp_path):
    sweep = small(
        budgets=[1e13], explore=EXPLORE, search={"extend": False},
        law={"learning_rate": 0.05, "curvature": 0.5, "noise": 0.0},
        pruning={"enabled": False},
    )  # fmt: skip
    found = ran(sweep, tmp_path)
    explored, profiled = found[found["budget"] == 1e12], found[found["budget"] == 1e13]
    assert len(explored) == 6
    assert len(set(explored["d_model"])) == 1
    assert len(profiled) == 15
    best = explored.loc[explored["loss"].idxmin(), "learning_rate"]
    assert profiled["learning_rate"].between(best / 2, best * 2).all()
    assert explored["learning_rate"].max() / explored["learning_rate"].min() > 4
    ledger = Ledger(tmp_path / "ledger.db")
    assert json.loads(ledger.fact("rates")) == [best / 2, best * 2]
    numbers = [(r.question.budget, r.number) for r in ledger.records()]
    assert max(n for b, n in numbers if b == 1e12) < min(n for b, n in numbers if b == 1e13)
    ledger.close()


def test_a_best_rate_on_the_edge_of_stage_one_is_followed(small, tmp_path):
    sweep = small(
        budgets=[1e13], explore={**EXPLORE, "trials": 3},
        search={"learning_rate": [1e-3, 4e-3], "sampler": "grid", "warm_start": False},
        law={"learning_rate": 0.05, "curvature": 0.5, "noise": 0.0},
        cap={"flops": 1e16},
    )  # fmt: skip
    found = ran(sweep, tmp_path)
    explored = found[found["budget"] == 1e12]
    assert len(explored) > 3
    best = explored.loc[explored["loss"].idxmin(), "learning_rate"]
    assert 0.025 < best < 0.1
    assert explored["learning_rate"].max() > best


def test_stage_one_takes_the_shape_it_is_given_even_off_the_ladder(small, tmp_path):
    sweep = small(budgets=[1e13], explore={**EXPLORE, "size": [3, 24]}, search={"trials": 1})
    explored = ran(sweep, tmp_path)
    explored = explored[explored["budget"] == 1e12]
    assert set(zip(explored["num_layers"], explored["d_model"], strict=True)) == {(3, 24)}


def test_stage_one_is_planned_and_shown(small, tmp_path):
    sweep = small(budgets=[1e13], explore=EXPLORE)
    counted = plan.plan(sweep)
    without = plan.plan(small(budgets=[1e13]))
    assert counted.explore.trials == 6
    assert counted.trials == without.trials + 6
    assert counted.flops == pytest.approx(without.flops + 6e12)
    simulate.simulate(sweep, tmp_path)
    ledger = Ledger(tmp_path / "ledger.db")
    standing = status.of(sweep, ledger)
    ledger.close()
    assert [b.budget for b in standing.budgets] == [1e12, 1e13]
    assert standing.ended == sum(b.planned for b in standing.budgets)


def test_killed_in_stage_one_it_goes_on_as_if_undisturbed(small, tmp_path):
    from driving import engine_in, start

    from tuner.engine import Nothing

    sweep = small(budgets=[1e13], explore=EXPLORE, search={"trials": 2, "extend": False})
    calm = ran(sweep, tmp_path / "calm", slots=1)
    for trials in (3, 5, 1000):
        engine = engine_in(sweep, tmp_path / "killed")
        for _ in range(trials):
            trial = engine.ask()
            if isinstance(trial, Nothing):
                break
            for progress in start(engine, trial, tmp_path):
                if not engine.report(trial.key, progress, {}):
                    break
    pd.testing.assert_frame_equal(table(sweep, tmp_path / "killed"), calm)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "qmc", "random", "grid"])
def test_batch_size_and_weight_decay_are_searched_where_asked(small, tmp_path, sampler):
    choices = {"batch_size": [2, 8], "weight_decay": [0.0, 0.1]}
    sweep = small(
        budgets=[1e13], shapes={"per_budget": 3},
        search={"sampler": sampler, "trials": 8, "extend": False, **choices},
        pruning={"enabled": False},
    )  # fmt: skip
    found = ran(sweep, tmp_path)
    for name, values in choices.items():
        assert set(found[name]) == set(values)
    assert len(found) == 24
    step = found["batch_size"] * found["context_length"] * found["flops_per_token"]
    assert ((1e13 - step < found["flops"]) & (found["flops"] <= 1e13)).all()
    if sampler == "grid":
        places = found.groupby("d_model")[["learning_rate", *choices]].apply(
            lambda rows: {tuple(row) for row in rows.itertuples(index=False)}
        )
        assert all(len(crossed) == 8 for crossed in places)
        assert found["learning_rate"].nunique() == 2


def test_a_batch_beyond_the_critical_one_is_left(small, tmp_path):
    sweep = small(
        budgets=[1e13], shapes={"per_budget": 3},
        search={"sampler": "grid", "trials": 6, "batch_size": [4, 32], "repeats": 1},
        law={"batch_tokens": 512, "batch_curvature": 0.3, "noise": 0.0},
        pruning={"enabled": False}, cap={"flops": 1e16},
    )  # fmt: skip
    done = ran(sweep, tmp_path)
    done = done[done["status"] == "completed"]
    assert set(done.loc[done.groupby("d_model")["loss"].idxmin(), "batch_size"]) == {4}
    again = done[done["seed"] == 1]  # another seed repeats the best cell, batch and all
    assert len(again) == 1
    assert set(again["batch_size"]) == {4}
