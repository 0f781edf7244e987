"""What every approach owes: recovery, intervals, records that come back, reasons in words."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.choice import choose
from analysis.fit import APPROACHES, FitError, Fits, fit
from analysis.laws import LossLaw
from analysis.lossfit import LOSS_APPROACHES
from analysis.results import FitStatus
from analysis.runs import CURVE_COLUMNS, Runs, RunTableError, frame
from analysis.simulate import isoflop_records, simulate

COUPLED = LossLaw(E=1.7, A=2305.0, B=9957.0, alpha=0.42, beta=0.43, k=0.77)
PLAIN = LossLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)


def noise_free(law):
    return Runs.of(
        pd.DataFrame(isoflop_records(law, np.geomspace(1e18, 1e21, 5), np.geomspace(3e7, 3e9, 7)))
    )


@pytest.fixture(scope="module")
def fits(tuned_runs):
    return fit(tuned_runs, replicates=200, at=(1e13,))


@pytest.mark.parametrize("name", [*LOSS_APPROACHES])
def test_noise_free_laws_come_back(name):
    law = COUPLED if name == "skaling" else PLAIN
    found = fit(noise_free(law), approaches=[name], replicates=0)[name]
    for letter, value in found.params.items():
        assert value == pytest.approx(getattr(law, letter), rel=1e-8)
    assert found.certificate.positive_definite
    assert not found.certificate.bounds


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("units", [1.0, 1e-9])
def test_recovery_does_not_depend_on_the_table(order, units):
    runs = noise_free(PLAIN)
    table = runs.table[["params", "tokens", "loss"]].iloc[::order]
    table = table.assign(params=table["params"] * units)
    found = fit(Runs.of(table), approaches=["chinchilla"], replicates=0)["chinchilla"].law
    assert pytest.approx(PLAIN.A * units**PLAIN.alpha, rel=1e-8) == found.A
    assert found.beta == pytest.approx(PLAIN.beta, rel=1e-8)


@pytest.mark.parametrize("name", ["akima", "cubic", "chinchilla", "skaling"])
def test_intervals_hold_the_truth(fits, truth, name):
    low, high = fits[name].n_opt_interval(1e12, level=0.999)
    assert low < truth.n_opt(1e12) < high
    assert low < fits[name].n_opt(1e12) < high


@pytest.mark.parametrize("name", APPROACHES)
def test_the_contract_of_an_approach(fits, name):
    found = fits[name]
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["name"] == name
    if found.law is None:
        assert found.status.state == "skipped"
        assert record["params"] == {}
        with pytest.raises(FitError, match=found.status.reason[:20]):
            found.n_opt(1e20)
        return
    assert set(record["n_opt"]) == {"1e+13", "1e+19", "1e+21", "1e+23", "1e+24"}
    assert record["ci_a"][0] <= record["ci_a"][1]
    assert record["se_a"] > 0
    assert record["n_opt"]["1e+19"] == found.n_opt(1e19)
    assert found.conf_int().keys() == found.params.keys()
    if name != "argmin_raw":  # in raw space C = 6 N D does not tie the exponents
        assert found.a + found.b == pytest.approx(1, abs=1e-3)
    assert len(record["points"]) == 4
    assert found.d_opt_interval(1e12)[0] <= found.d_opt(1e12) <= found.d_opt_interval(1e12)[1]


def test_a_parabola_on_a_wide_grid_is_biased(fits, truth):
    """Two decades of sizes: the profile leans, the vertex of a parabola does not (2603.22339)."""
    low, high = fits["parabola"].n_opt_interval(1e12, level=0.999)
    assert not low < truth.n_opt(1e12) < high
    assert fits["cubic"].n_opt(1e12) == pytest.approx(truth.n_opt(1e12), rel=0.1)


def test_prediction_intervals_hold_confidence_intervals(fits):
    found = fits["chinchilla"]
    low, high = found.loss_interval(1e5, 1e6)
    wider_low, wider_high = found.loss_prediction_interval(1e5, 1e6)
    assert wider_low < low < found.predict(1e5, 1e6) < high < wider_high


def test_allocation_laws_have_no_loss(fits):
    with pytest.raises(FitError, match="no law of loss"):
        fits["parabola"].predict(1e5, 1e6)


def test_records_come_back(fits):
    text = json.dumps(fits.to_dict(), allow_nan=False)
    back = Fits.from_dict(json.loads(text))
    assert back == fits
    assert json.dumps(back.to_dict()) == text
    assert back.best.n_opt(1e20) == fits.best.n_opt(1e20)
    with pytest.raises(FitError, match="fit the runs again"):
        back.best.n_opt_interval(1e20)


def test_the_same_seed_gives_the_same_digits(tuned_runs, fits):
    alone = fit(tuned_runs, approaches=["chinchilla"], replicates=200, at=(1e13,))
    assert alone["chinchilla"] == fits["chinchilla"]
    assert fit(tuned_runs, approaches=["chinchilla"], seed=1, replicates=200)["chinchilla"].bse != (
        fits["chinchilla"].bse
    )


@pytest.mark.parametrize("bootstrap", ["pairs", "wild", "residual"])
def test_a_bootstrap_may_be_named(tuned_runs, bootstrap):
    found = fit(tuned_runs, approaches=["chinchilla"], replicates=60, bootstrap=bootstrap).best
    low, high = found.intervals["a"]
    assert low < found.a < high
    assert 0.001 < found.bse["a"] < 0.05


@pytest.fixture(scope="module")
def pinned(tuned_runs, truth):
    return fit(tuned_runs, approaches=["cubic", *LOSS_APPROACHES], replicates=60, pinned_E=truth.E)


@pytest.mark.parametrize("name", [*LOSS_APPROACHES])
def test_a_pinned_irreducible_loss_is_given_and_said(pinned, truth, name):
    found = pinned[name]
    assert found.params["E"] == pytest.approx(truth.E, rel=1e-12)
    assert found.given == ("E",)
    assert "E" not in {*found.bse, *found.intervals, *found.certificate.bounds}
    assert found.certificate.positive_definite
    assert found.status.state == "ok"
    assert f"E      {truth.E:<14.7g}  given, not fitted" in pinned.summary()
    assert found.to_dict()["given"] == ["E"]


def test_a_pinned_loss_narrows_the_rest(pinned, fits, truth):
    assert pinned["cubic"].given == ()
    assert pinned["chinchilla"].bse["a"] < fits["chinchilla"].bse["a"]
    low, high = pinned["chinchilla"].n_opt_interval(1e12, level=0.999)
    assert low < truth.n_opt(1e12) < high
    assert {one.approach for one in pinned.validation} == {*LOSS_APPROACHES}
    assert Fits.from_dict(pinned.to_dict()) == pinned


def test_one_draw_gives_no_interval(tuned_runs):
    found = fit(tuned_runs, approaches=["chinchilla", "cubic"], replicates=1)
    assert [one.intervals for one in found.approaches] == [{}, {}]


@pytest.mark.parametrize("value", [0.0, -1.0, 50.0, float("nan")])
def test_a_pin_lies_between_zero_and_the_lowest_loss(tuned_runs, value):
    with pytest.raises(RunTableError, match="not between 0 and the lowest loss"):
        fit(tuned_runs, pinned_E=value)


def test_disagreement_is_measured_against_the_chosen_law(fits):
    for record in fits.disagreement:
        sizes = {one.name: one.n_opt(record.budget) for one in fits.approaches if one.law}
        assert record.ratio == pytest.approx(max(sizes.values()) / min(sizes.values()))
        assert record.extra_flops[fits.chosen] == pytest.approx(0, abs=1e-9)
        assert record.extra_flops[record.lowest] > 0


def test_the_law_is_chosen_by_extrapolation():
    rng = np.random.default_rng(0)
    table = noise_free(LossLaw(E=1.7, A=60.0, B=120.0, alpha=0.3, beta=0.3, k=1.8)).table
    table = table.assign(loss=table["loss"] * np.exp(5e-4 * rng.normal(size=len(table))))
    names = ["chinchilla", "skaling"]
    bent = fit(Runs.of(table[["budget", "params", "loss"]]), approaches=names, replicates=20)
    assert bent.chosen == "skaling"
    errors = {one.approach: one.error for one in bent.validation}
    assert errors["skaling"] < errors["chinchilla"]
    straight = fit(noise_free(PLAIN), approaches=names, replicates=0)
    assert straight.chosen == "chinchilla"


def test_only_answers_that_are_far_are_called_so(tuned_runs, fits):
    far = "more than 10 times the largest budget measured"
    assert far not in fits.summary()
    asked = fit(tuned_runs, approaches=["chinchilla"], replicates=0, at=(1e15,))
    assert far in asked.summary()


def test_the_summary_says_what_cannot_be_trusted(fits):
    text = fits.summary()
    assert "32 points, 64 rows dropped" in text
    assert "status is pruned" in text
    assert "raw space: the largest budgets decide alone" in text
    assert "skipped (needs training curves" in text
    assert f"follow {fits.chosen}" in text
    answer, *detail = text.split("\n\n")  # what a person reads first
    assert f"follow {fits.chosen}" in answer
    assert all(f"\n! {said}" in answer for said in fits.warnings)
    assert not [part for part in detail if part.startswith("!") or "\n! " in part]
    point = fits["parabola"].points[0]
    assert f"{point.budget:.4g} FLOP: N_opt {point.params:.5g}, D_opt {point.tokens:.5g}" in text


def test_nobody_s_budget_is_ten_and_a_hundred_times_the_largest(tuned_runs, fits):
    alone = fit(tuned_runs, approaches=["parabola", "chinchilla"], replicates=0)
    assert alone.targets == (1e13, 1e14)
    assert fits.targets == (1e13,)
    text = alone.summary()
    for budget in (1e13, 1e14):
        assert f"N_opt({budget:.3g})" in text
        assert f"at {budget:.3g} FLOP approaches differ" in text
    assert "1e+24" not in text
    assert Fits.from_dict(json.loads(json.dumps(alone.to_dict()))).targets == alone.targets


def test_one_budget_is_refused_with_every_reason():
    table = pd.DataFrame(isoflop_records(PLAIN, [1e18], np.geomspace(1e7, 1e9, 4)))
    with pytest.raises(RunTableError) as caught:
        fit(Runs.of(table))
    assert len(caught.value.faults) == len(APPROACHES)
    assert any("needs 2 budgets" in fault for fault in caught.value.faults)
    assert any(
        "more than 5 points for 5 parameters, got 4" in fault for fault in caught.value.faults
    )


def test_one_ratio_cannot_tell_alpha_from_beta():
    sizes = np.geomspace(1e7, 1e9, 9)
    table = pd.DataFrame({"N": sizes, "D": 20 * sizes, "L": PLAIN.loss(sizes, 20 * sizes)})
    with pytest.raises(RunTableError, match="one tokens-per-parameter ratio"):
        fit(Runs.of(table), approaches=["chinchilla"])


def test_an_approach_that_was_not_asked_for_is_no_key(fits):
    with pytest.raises(KeyError, match="parabolla"):
        fits["parabolla"]


def test_unknown_approaches_are_named(tuned_runs):
    with pytest.raises(ValueError, match="parabolla"):
        fit(tuned_runs, approaches=["parabolla"])


def test_no_irreducible_loss_is_flagged():
    """A table whose best law has E below zero: E stops at its floor and the fit says so."""
    n, d = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
    )
    loss = 50 / n**0.2 + 80 / d**0.2 - 0.3
    found = fit(Runs.of(pd.DataFrame({"N": n, "D": d, "L": loss})), approaches=["chinchilla_mse"],
                replicates=50)["chinchilla_mse"]  # fmt: skip
    assert found.status.state == "doubtful"
    assert "E ended on its bound" in found.status.reason


def test_tables_without_isoflop_profiles_skip_approach_two():
    rng = np.random.default_rng(1)
    n, d = 10 ** rng.uniform(7, 9, 30), 10 ** rng.uniform(9, 11, 30)
    table = pd.DataFrame({"N": n, "D": d, "L": PLAIN.loss(n, d)})
    found = fit(Runs.of(table), replicates=0)
    assert found["parabola"].status.state == "skipped"
    assert "needs isoFLOP profiles" in found["parabola"].status.reason
    assert found["chinchilla"].status.state == "ok"


def test_the_envelope_of_curves():
    """Curves that keep to the law at every token: their hull follows the law's frontier."""
    sizes = np.geomspace(1e6, 1e9, 25)
    tokens = np.geomspace(1e7, 1e12, 60)
    rows = [
        {"trial": str(i), "step": j, "tokens": round(d), "flops": round(6 * n * d),
         "loss": float(PLAIN.loss(n, d)), "learning_rate": 0.01}
        for i, n in enumerate(sizes) for j, d in enumerate(tokens)
    ]  # fmt: skip
    table = pd.DataFrame({"trial": [str(i) for i in range(len(sizes))], "N": sizes,
                          "D": tokens[-1], "L": PLAIN.loss(sizes, tokens[-1])})  # fmt: skip
    runs = Runs.of(table, curves=frame(rows, CURVE_COLUMNS))
    found = fit(runs, approaches=["envelope"], replicates=20)["envelope"]
    assert found.a == pytest.approx(PLAIN.a, abs=0.02)
    assert {point.params for point in found.points} <= set(sizes[1:-1])
    assert found.status.state == "doubtful"
    assert "middle of a decaying schedule" in found.status.reason


def test_budgets_that_are_not_6nd_are_followed():
    law = LossLaw(E=1.2, A=30, B=60, alpha=0.35, beta=0.37, flops_per_param_token=7.5)
    sizes = np.geomspace(1e4, 1e6, 8)
    rows = [
        (c, n, c / 7.5 / n, law.loss(n, c / 7.5 / n)) for c in (1e11, 1e12, 1e13) for n in sizes
    ]
    runs = Runs.of(pd.DataFrame(rows, columns=["C", "N", "D", "L"]))
    found = fit(runs, replicates=0)["chinchilla"]
    assert found.n_opt(1e12) == pytest.approx(law.n_opt(1e12), rel=1e-6)
    assert "7.5 · N · D" in found.warnings[0]


def test_analysis_needs_neither_torch_nor_ray(tmp_path):
    for name in ("torch", "ray", "optuna"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    code = (
        "import importlib, pkgutil, sys, analysis\n"
        "for found in pkgutil.iter_modules(analysis.__path__):\n"
        "    importlib.import_module('analysis.' + found.name)\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_width_of_the_huber_penalty_may_be_named(tuned_runs):
    """A wide one is least squares; only the two laws under it take it."""
    names = ["chinchilla", "chinchilla_logmse", "chinchilla_lad"]
    wide = fit(tuned_runs, approaches=names, replicates=0, delta=10.0)
    usual = fit(tuned_runs, approaches=names, replicates=0)
    assert wide["chinchilla"].objective_name == "sum of Huber(10) on log loss"
    assert wide["chinchilla"].a == pytest.approx(wide["chinchilla_logmse"].a, rel=1e-6)
    assert wide["chinchilla"].a != pytest.approx(usual["chinchilla"].a, rel=1e-6)
    assert wide["chinchilla_lad"] == usual["chinchilla_lad"]


def test_loss_that_does_not_fall_with_size_is_refused_in_words():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e12, 5)))
    table = pd.DataFrame({"N": n, "D": d, "L": 2 + 0.1 * np.log(n / 1e6)})
    with pytest.raises(RunTableError, match=r"no allocation is best|were not enough"):
        fit(Runs.of(table), approaches=["chinchilla", "chinchilla_logmse"], replicates=0)


def test_a_budget_of_one_size_is_no_profile_and_nothing_is_amiss(tuned_runs, truth):
    explored = simulate(truth, [1e10], [8e3], noise=0.002)
    runs = Runs.of(pd.concat([tuned_runs.trials, explored], ignore_index=True))
    for name in ("argmin", "parabola", "akima", "cubic"):
        found = fit(runs, approaches=(name,), replicates=50)[name]
        assert found.status.state == "ok", found.status.reason
        assert "sizes (1e+10)" in found.warnings[0]


def test_where_none_can_be_trusted_it_says_so(fits):
    doubted = [
        replace(one, status=FitStatus(state="doubtful", reason="for the test"))
        for one in fits.approaches
    ]
    chosen, because = choose(doubted, fits.validation)
    assert chosen == "chinchilla"
    assert because.startswith("none can be trusted")
