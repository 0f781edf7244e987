"""What to train: allocation with intervals, a real shape, the recipe's trend, warnings."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cells import cells
from analysis.comparison import Fits
from analysis.conventions import compared, exponents
from analysis.fit import fit
from analysis.predict import predict
from analysis.proposal import Surroundings, proposed_shape
from analysis.results import FitError
from analysis.runs import Runs, RunTableError
from analysis.simulate import Tuning, simulate
from analysis.trend import trend


@pytest.fixture(scope="module")
def fits(tuned_runs):
    return fit(tuned_runs, replicates=200)


def test_prediction_holds_the_truth(tuned_runs, fits, truth):
    found = predict(tuned_runs, fits, 5e12)
    assert found.params.low < truth.n_opt(5e12) < found.params.high
    assert found.tokens.low < truth.d_opt(5e12) < found.tokens.high
    assert found.loss.low < truth.loss_opt(5e12) < found.loss.high
    assert found.learning_rate == pytest.approx(0.016, rel=0.3)
    assert found.approach == fits.chosen


def test_the_json_of_a_prediction(tuned_runs, fits):
    record = json.loads(json.dumps(predict(tuned_runs, fits, 5e12).to_dict(), allow_nan=False))
    assert set(record) == {
        "budget", "params", "tokens", "loss", "shape", "learning_rate", "batch_size", "approach",
        "warnings", "deployment", "deployment_shape", "shape_interval", "learning_rate_interval",
        "batch_size_interval", "unsound",
    }  # fmt: skip
    assert set(record["shape"]) == {"d_model", "num_layers", "num_heads", "d_ff", "params"}
    assert set(record["params"]) == {"value", "low", "high"}
    assert predict(tuned_runs, fits, 5e12, shape=False).shape is None


def test_serving_asks_for_a_smaller_model_of_the_same_loss(tuned_runs, fits):
    alone = predict(tuned_runs, fits, 5e12)
    assert alone.deployment is None
    found = predict(tuned_runs, fits, 5e12, served=1e9)
    assert found.params == alone.params
    cheapest, law = found.deployment, fits["chinchilla"].law
    assert cheapest.params < law.n_opt(5e12)
    assert law.loss(cheapest.params, cheapest.tokens) == pytest.approx(law.loss_opt(5e12))
    assert cheapest.serving_flops == pytest.approx(2 * cheapest.params * 1e9)
    assert 5e12 + 2 * law.n_opt(5e12) * 1e9 == cheapest.compute_optimal_flops > cheapest.flops
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["deployment"]["flops"] == cheapest.flops
    assert record["deployment_shape"]["params"] < record["shape"]["params"]
    assert "cheapest to train and to serve 1e+09 tokens" in found.summary()
    assert f"{cheapest.params:.4g}" in found.summary()


def test_serving_needs_a_law_of_loss(tuned_runs):
    without = fit(tuned_runs, approaches=["cubic"], replicates=20)
    with pytest.raises(FitError, match="without a law of loss"):
        predict(tuned_runs, without, 5e12, served=1e9)


@pytest.mark.parametrize("served", [0.0, -1.0, float("nan"), float("inf")])
def test_served_tokens_are_positive(tuned_runs, fits, served):
    with pytest.raises(ValueError, match="served must be a positive number"):
        predict(tuned_runs, fits, 5e12, served=served)


def test_far_extrapolation_is_said(tuned_runs, fits):
    assert any(
        "times the largest budget" in text for text in predict(tuned_runs, fits, 1e20).warnings
    )
    assert any("below the smallest" in text for text in predict(tuned_runs, fits, 1e9).warnings)
    assert "below the smallest" in predict(tuned_runs, fits, 1e9).summary()


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_budgets_are_positive(tuned_runs, fits, budget):
    with pytest.raises(ValueError, match="positive"):
        predict(tuned_runs, fits, budget)


def test_a_learning_rate_that_moves_with_size_is_followed(truth):
    tuning = Tuning(rates=tuple(0.002 * 1.4**i for i in range(12)), best=0.016, exponent=-0.4,
                    reference=3e4, curvature=0.05)  # fmt: skip
    table = simulate(truth, np.geomspace(1e10, 1e13, 5), np.geomspace(3e3, 1e6, 10), tuning=tuning)
    runs = Runs.of(table)
    found = predict(runs, fit(runs, approaches=["chinchilla"], replicates=20), 3e13)
    expected = 0.016 * (truth.n_opt(3e13) / 3e4) ** -0.4
    assert found.learning_rate == pytest.approx(expected, rel=0.2)


@given(
    st.floats(3e3, 1e12), st.sampled_from([0, 256, 50257]), st.sampled_from([0, 64, 1024]),
    st.sampled_from(["as given", "total", "non_embedding", "transformer"]),
)  # fmt: skip
def test_a_proposed_shape_is_a_real_one(params, vocab, context, count):
    around = Surroundings(count=count, vocab_size=vocab, context_length=context)
    shape = proposed_shape(params, around)
    assert shape.d_model % shape.num_heads == 0
    assert shape.d_model // shape.num_heads >= 8
    assert shape.d_model // shape.num_heads % 8 == 0
    assert shape.d_ff == 4 * shape.d_model
    assert shape.params == around.params(shape.d_model, shape.num_layers)
    smallest = around.params(8, 1)  # its embeddings may outweigh what is asked for
    if vocab <= 256 and params > max(1e4 * max(vocab, 1) / 256, 2 * smallest):
        assert shape.params == pytest.approx(params, rel=0.6)
    if vocab == 0 and params > 1e6:
        assert shape.params == pytest.approx(params, rel=0.15)
        assert 12 <= shape.d_model / shape.num_layers <= 300


def test_counts_agree_with_the_models_shape():
    from model.shape import Shape

    shape = Shape(
        d_model=64, num_layers=3, num_heads=4, d_ff=256, vocab_size=256, context_length=64
    )
    for count, expected in (
        ("total", shape.params), ("non_embedding", shape.params_non_embedding),
        ("transformer", shape.params_transformer),
    ):  # fmt: skip
        around = Surroundings(count=count, vocab_size=256, context_length=64)
        assert around.params(64, 3) == expected


def test_the_count_of_flops_moves_the_exponent(truth):
    """Budgets of 20 · N^.9 · D: a is beta/(alpha + .9 beta), by 6 N D beta/(alpha + beta)."""
    law = replace(truth, flops_per_param_token=20.0, cost_exponent=0.9)
    around = np.geomspace(1 / 6, 6, 9)
    tables = [simulate(law, [c], law.n_opt(c) * around) for c in np.geomspace(1e11, 1e15, 5)]
    runs = Runs.of(pd.concat(tables, ignore_index=True))
    found = {
        (row.flops, row.approach): row.a
        for row in exponents(runs, approaches=("cubic", "chinchilla"), replicates=20)
        if row.count == "non_embedding"
    }
    assert found["exact", "chinchilla"] == pytest.approx(0.37 / (0.35 + 0.9 * 0.37), abs=1e-3)
    assert found["6ND", "chinchilla"] == pytest.approx(0.37 / 0.72, abs=1e-3)
    assert found["exact", "cubic"] == pytest.approx(found["exact", "chinchilla"], abs=0.01)
    assert found["6ND", "cubic"] == pytest.approx(found["6ND", "chinchilla"], abs=0.01)


def test_exponents_under_every_convention(tuned_runs):
    rows = exponents(Runs.of(tuned_runs.trials.assign(params_embedding=1000)), replicates=20)
    assert len(rows) == 3 * 2 * 2
    by = {(row.count, row.flops, row.approach): row.a for row in rows}
    assert by["total", "exact", "chinchilla"] != by["non_embedding", "exact", "chinchilla"]
    assert all(low <= row.a <= high for row in rows for low, high in [row.interval])


def test_conventions_need_counts():
    runs = Runs.of(simulate_like_others())
    with pytest.raises(RunTableError, match="params_embedding"):
        exponents(runs)


def test_fits_carry_the_table_of_conventions(tuned_runs, fits):
    runs = Runs.of(tuned_runs.trials.assign(params_embedding=1000))
    found = compared(runs, fits)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Fits.from_dict(record) == found
    assert len(record["conventions"]["exponents"]) == 12
    assert record["conventions"]["left_out"] == ""
    row = found.conventions.exponents[1]
    assert (row.count, row.flops, row.approach) == ("total", "6ND", "chinchilla")
    assert f"total          6ND       chinchilla   {row.a:.5f}" in found.summary()
    assert found.best == fits.best


def test_a_table_without_counts_says_so(fits):
    found = compared(Runs.of(simulate_like_others()), fits)
    assert found.conventions.exponents == ()
    assert "other conventions are left out: N is as the table gives it" in found.summary()
    assert Fits.from_dict(found.to_dict()) == found


def simulate_like_others():
    return pd.DataFrame({"C": [1e18, 1e19], "N": [1e8, 2e8], "L": [3.0, 2.5]})


def test_a_rate_scaled_by_width_says_so(tuned_runs, fits):
    scaled = Runs.of(tuned_runs.trials.assign(parametrization="mup"), source="scaled")
    said = predict(scaled, fits, 1e20)
    (line,) = [warning for warning in said.warnings if "mup" in warning]
    assert f"16 / {said.shape.d_model} = {16 / said.shape.d_model:.3g} times it" in line
    assert not any("mup" in warning for warning in predict(tuned_runs, fits, 1e20).warnings)


def test_every_part_of_the_answer_has_an_interval(tuned_runs, fits):
    said = predict(tuned_runs, fits, 5e12)
    low, high = said.learning_rate_interval
    assert low < said.learning_rate < high
    assert high / low >= 2  # the rates tried lie a factor of two apart
    assert said.batch_size_interval is None  # not searched
    small, large = said.shape_interval
    assert small.params <= said.shape.params <= large.params
    assert f"[{low:.3g}, {high:.3g}]" in said.summary()


def test_a_rate_s_interval_holds_the_truth(truth):
    """Cells whose best rates scatter by half an octave: the mean's interval covers at its level."""
    rng = np.random.default_rng(3)
    table = simulate(truth, np.geomspace(1e10, 1e13, 4), np.geomspace(3e3, 1e6, 12))
    points, inside = cells(Runs.of(table)), 0
    for _ in range(200):
        values = 0.02 * np.exp(rng.normal(0, 0.35, len(points)))
        found = trend(points, values, 1e13)
        inside += found.low < 0.02 < found.high
    assert inside / 200 == pytest.approx(0.95, abs=0.04)


def test_a_loss_that_no_larger_budget_lowers_is_doubted(tuned_runs, fits):
    assert not any("not below" in warning for warning in predict(tuned_runs, fits, 5e12).warnings)
    lucky = tuned_runs.trials.copy()
    lucky.loc[lucky.loss.idxmin(), "loss"] = 0.1
    found = predict(Runs.of(lucky), fits, 5e12)
    assert any("not below the 0.1 that was measured" in warning for warning in found.warnings)
