"""Sizes crossed with numbers of tokens: what is asked, what it costs, what is fitted from it."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis import runs
from analysis.cells import cells
from analysis.fit import fit
from analysis.losspower import loss_powers
from tuner import plan, simulate, soundness, space, status
from tuner.cli import app
from tuner.config import parse
from tuner.errors import ConfigError
from tuner.export import export
from tuner.ledger import Ledger
from tuner.provenance import Provenance, settle
from tuner.question import Question
from tuner.sections import NAMED_SIZES
from tuner.single import _size

GRID = {
    "name": "grid",
    "design": "grid",
    "backend": "law",
    "shapes": {"ladder": ["small", "medium", "large"], "context_length": 256, "head_size": 64},
    "grid": {"tokens": [1e6, 1e7, 1e8]},
    "data": {"tokenizer": "bpe:10000"},
    "training": {"batch_size": 8},
    "search": {"trials": 1, "seeds": 2, "sampler": "grid", "warm_start": False},
    "law": {"learning_rate": 0.02262742, "noise": 0.001},
}


def grid(**settings):
    table = {**GRID, **settings}
    for name, section in GRID.items():
        if isinstance(section, dict) and name in settings:
            table[name] = {**section, **settings[name]}
    return parse(table, place="grid.toml")


def simulated(sweep, folder):
    """The run table of a sweep in simulated time, its soundness, and its status."""
    folder.mkdir()
    ledger = Ledger(folder / "ledger.db")
    found = Provenance(
        commit="c", torch="", corpus="", tokenizer="", vocab_size=plan.vocabulary(sweep),
        train_tokens=0, bytes_per_token=0.0,
    )  # fmt: skip
    settle(ledger, found)
    simulate.simulate(sweep, folder, slots=3)
    table = export(folder, sweep, ledger, found)
    said = soundness.faults(sweep, ledger, found.vocab_size), status.of(sweep, ledger)
    ledger.close()
    return table, *said


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return simulated(grid(), tmp_path_factory.mktemp("grid") / "sweep")


def test_every_crossing_runs_with_every_seed(done):
    table, faults, standing = done
    assert len(table) == 18 == plan.plan(grid()).trials == standing.planned
    assert (table["status"] == "completed").all()
    crossed = table.groupby(["num_layers", "d_model", "tokens"])["seed"].agg(set)
    assert len(crossed) == 9
    assert all(seeds == {0, 1} for seeds in crossed)
    assert set(zip(table["num_layers"], table["d_model"], strict=True)) == set(NAMED_SIZES.values())
    assert faults == []
    assert standing.ended == 18


def test_a_trial_takes_the_most_whole_steps_within_its_tokens(done):
    table = done[0]
    step = 8 * 256
    assert set(table["tokens"]) == {count // step * step for count in (10**6, 10**7, 10**8)}
    assert (table["tokens"] == table["steps"] * step).all()


def test_its_budget_is_its_exact_cost(done):
    table = done[0]
    assert (table["budget"] == table["tokens"] * table["flops_per_token"]).all()
    assert (table["budget"] == table["flops"]).all()
    assert table["flops_charged"].sum() == table["flops"].sum()


def test_budgets_are_never_below_the_cost_even_where_floats_are_coarse():
    sweep = grid(shapes={"ladder": [[24, 1024], [24, 1808]]}, grid={"tokens": [1e9, 10**10 + 7777]})
    for budget in space.budgets(sweep, 10_000):
        for size in space.offered(sweep, budget, 10_000):
            question = Question(budget=budget, size=size, learning_rate=1, number=0, seed=0)
            trial = space.trial(sweep, question, 10_000)
            assert trial.flops <= budget < trial.flops + trial.flops_per_step


def test_the_plan_counts_both_ways_before_anything_runs():
    counted = plan.plan(grid())
    by_hand = {"exact": 0, "6ND": 0}
    for count in (1e6, 1e7, 1e8):
        for size in NAMED_SIZES.values():
            shape = space.shape(grid(), size, 10_000)
            tokens = count // (8 * 256) * 8 * 256
            for convention in by_hand:
                by_hand[convention] += 2 * tokens * shape.flops_per_token(convention)
    assert counted.flops_exact == counted.flops == by_hand["exact"]
    assert counted.flops_6nd == by_hand["6ND"]
    assert [warning.partition(":")[0] for warning in counted.warnings] == [
        "a known law answers at once"
    ]


def test_batches_may_differ_by_the_number_of_tokens(tmp_path):
    table, *_ = simulated(grid(training={"batch_size": [8, 16, 64]}), tmp_path / "sweep")
    assert dict(zip(table["tokens"] // 10**6, table["batch_size"], strict=True)) == {
        0: 8, 9: 16, 99: 64,
    }  # fmt: skip


def test_l_of_n_and_d_is_fitted_from_the_table(done):
    table = done[0]
    fits = fit(runs.Runs.of(table), replicates=0)
    states = {one.name: one.status.state for one in fits.approaches}
    assert states["parabola"] == "skipped"
    law = next(one.law for one in fits.approaches if one.name == "chinchilla")
    assert law.alpha == pytest.approx(0.34, abs=0.02)
    assert law.beta == pytest.approx(0.28, abs=0.01)
    assert abs(law.E - 1.69) < 0.15


def test_l_of_n_and_l_of_d_are_fitted_from_the_table(tmp_path):
    sweep = grid(
        shapes={"ladder": [[2, 128], "small", [6, 384], "medium", "large"]},
        grid={"tokens": [1e6, 1e7, 1e8, 1e9, 1e10]},
        law={**GRID["law"], "noise": 0.0},
    )
    table, *_ = simulated(sweep, tmp_path / "sweep")
    points = cells(runs.Runs.of(table))
    # The other term of the law is constant along an edge of the grid: it is part of the floor.
    found = loss_powers(points, 0, np.random.SeedSequence(0))
    with_floor = {fit.variable: fit for fit in found.fits if fit.floor}
    assert {name: with_floor[name].levels for name in ("params", "tokens")} == {
        "params": 5, "tokens": 5,
    }  # fmt: skip
    assert with_floor["params"].params["exponent"] == pytest.approx(0.34, abs=0.01)
    assert with_floor["tokens"].params["exponent"] == pytest.approx(0.28, abs=0.01)


def test_rates_can_be_searched_in_a_grid_too(tmp_path):
    sweep = grid(search={"trials": 3, "seeds": 1, "sampler": "tpe", "warm_start": True})
    table, *_ = simulated(sweep, tmp_path / "sweep")
    assert len(table) == 27
    assert (table["status"] == "pruned").any()
    best = table[table["status"] == "completed"].groupby(["d_model", "tokens"])["loss"].idxmin()
    assert len(best) == 9
    # The largest crossing was begun with the best rate of smaller ones.
    assert table["learning_rate"][best].iloc[-1] == pytest.approx(0.0226, rel=0.5)


def test_interrupted_and_resumed_it_is_the_same(done, tmp_path):
    from tuner.engine import Engine, Nothing
    from tuner.search import Studies

    sweep, folder = grid(), tmp_path / "sweep"
    folder.mkdir()
    ledger = Ledger(folder / "ledger.db")
    studies = Studies(sweep, folder / "study.db", 10_000)
    engine = Engine(sweep, ledger, studies, cap=plan.plan(sweep).cap)
    assert not isinstance(engine.ask(), Nothing)  # started, and never heard of again
    ledger.close()
    simulate.simulate(sweep, folder, slots=2)
    ledger = Ledger(folder / "ledger.db")
    found = Provenance(
        commit="c", torch="", corpus="", tokenizer="", vocab_size=10_000, train_tokens=0,
        bytes_per_token=0.0,
    )  # fmt: skip
    table = export(folder, sweep, ledger, found)
    ledger.close()
    pd.testing.assert_frame_equal(
        table.drop(columns=list(runs.VOLATILE)), done[0].drop(columns=list(runs.VOLATILE))
    )


def test_all_that_is_missing_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse({"name": "x", "design": "grid"}, place="x.toml")
    assert len(str(caught.value).splitlines()) == 2


def test_one_model_of_a_grid_trains_alone(text, tmp_path):
    file, model = tmp_path / "g.toml", tmp_path / "model"
    file.write_text(
        'name = "g"\ndesign = "grid"\n[grid]\ntokens = [1e5]\n[shapes]\nladder = [[1, 16]]\n'
        f'[data]\nsource = "{text}"\nheld_out_tokens = 4096\n'
    )
    asked = ["train", str(file), "--size", "1x16", "--budget", "3e8", "--learning-rate", "0.02"]
    result = CliRunner().invoke(app, [*asked, "--dir", str(model)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (model / "model.pt").exists()


def test_a_size_s_name_is_a_size():
    assert {name: _size(name) for name in NAMED_SIZES} == NAMED_SIZES
    assert _size("2x32") == (2, 32)
    with pytest.raises(ConfigError, match="as 2x32, or one of small, medium, large"):
        _size("tiny")
