"""What is said of a stranger's table before any answer drawn from it is believed."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.cells import cells
from analysis.fit import fit
from analysis.laws import LossLaw
from analysis.predict import predict
from analysis.quality import table_warnings
from analysis.results import percentile_interval
from analysis.runs import Runs, RunTableError, read

LAW = LossLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)


def profiles(budgets=BUDGETS, around=(0.3, 3.0), *, noise=0.002, seed=0, count=7):
    """Runs of each budget at sizes from `around` times its optimum."""
    rng = np.random.default_rng(seed)
    rows = [
        (c, n, c / 6 / n, float(LAW.loss(n, c / 6 / n) * np.exp(rng.normal(0, noise))))
        for c in budgets
        for n in LAW.n_opt(c) * np.geomspace(*around, count)
    ]
    return pd.DataFrame(rows, columns=["C", "N", "D", "L"])


def answered(table, budget=1e21, approaches=("argmin", "parabola", "chinchilla")):
    runs = Runs.of(table, source="theirs.csv")
    fits = fit(runs, approaches=approaches, at=[budget], replicates=50)
    return runs, fits, predict(runs, fits, budget)


def test_a_sound_table_is_told_nothing_unsound():
    _, fits, found = answered(profiles())
    assert fits.unsound == found.unsound == ()
    assert fits["chinchilla"].status.state == "ok"
    assert found.summary().startswith("1e+21 FLOP, by chinchilla")


def test_one_budget_measures_no_exponent(tmp_path):
    table = profiles([1e19], count=8)
    runs, fits, found = answered(table, 1e20, ["chinchilla", "skaling"])
    said = "one budget: the exponent is not measured"
    assert fits.best.status.state == "doubtful"
    assert "none can be trusted" in fits.chosen_because
    assert fits.summary().splitlines()[1].startswith(f"not sound: {said}")
    assert f"! {said}" in fits.summary()
    assert found.summary().startswith(f"not sound: {said}")
    assert found.warnings[0].startswith(said)
    report.write(runs, fits, found, tmp_path / "report.html", title="theirs")
    first = (tmp_path / "report.md").read_text().split("Allocation by")[0]
    assert f"Not sound: {said}" in first


def test_draws_beyond_all_numbers_end_an_interval_and_nothing_else():
    drawn = replace(LAW, A=np.array([1e-200, 400.0, 1e200, 1e300]), alpha=0.1, beta=0.1)
    optima = drawn.n_opt(1e20)
    assert np.isinf(optima[2:]).all()
    assert percentile_interval(optima)[1] == np.inf


def test_one_budget_that_tables_round_is_one():
    table = profiles([1e19], count=8).drop(columns="C")
    table["D"] *= np.exp(np.random.default_rng(0).uniform(-0.015, 0.015, len(table)))
    _, fits, found = answered(table, 1e20)
    assert found.summary().startswith("not sound: one budget")
    assert fits["argmin"].status.state == "skipped"
    assert "L(C)" in fits.powers.left_out


def test_predict_says_of_a_strangers_table_what_fit_says():
    _, fits, found = answered(profiles(around=(0.02, 0.3)))
    of_profiles = [said for said in fits.warnings if said.startswith("budget ")]
    assert len(of_profiles) == len(BUDGETS)
    assert set(of_profiles) <= set(found.warnings)
    assert all(f"! {said}" in found.summary() for said in of_profiles)


def test_a_sweep_says_it_in_its_own_words(tuned_runs):
    fits = fit(tuned_runs, approaches=["parabola", "chinchilla"], replicates=50)
    found = predict(tuned_runs, fits, 1e13)
    assert not [said for said in found.warnings if said.startswith("budget ")]


def test_minima_all_on_an_edge_lead_the_answer(tmp_path):
    runs, fits, found = answered(profiles(around=(0.02, 0.3)))
    said = "at every budget the largest size has the lowest loss: no optimum was measured"
    assert {fits[name].status.state for name in ("argmin", "chinchilla")} == {"doubtful"}
    assert found.summary().startswith(f"not sound: {said}")
    assert found.warnings[0].startswith(said)
    report.write(runs, fits, found, tmp_path / "report.html", title="theirs")
    assert f"Not sound: {said}" in (tmp_path / "report.md").read_text().split("Train ")[0]


def test_one_minimum_inside_is_evidence():
    """Edges at some budgets are warned of, profile by profile; they condemn nothing."""
    table = pd.concat([profiles(BUDGETS[:4], (0.02, 0.3)), profiles(BUDGETS[4:])])
    _, fits, found = answered(table)
    assert not fits.unsound
    assert "the largest size has the lowest loss" in " ".join(found.warnings)


@pytest.mark.parametrize(
    ("column", "factor", "said"),
    [("N", 1e-6, "1e+06 times"), ("D", 1e-6, "1e+06 times"), ("C", 1 / 6, "0.167 times"),
     ("C", 1e12, "1e+12 times")],
)  # fmt: skip
def test_units_that_do_not_fit_each_other_are_asked_about(column, factor, said):
    table = profiles()
    table[column] *= factor
    _, fits, found = answered(table)
    question = f"budgets are {said} 6 · params · tokens: params or tokens in other units"
    assert any(said.startswith(question) for said in fits.warnings)
    assert f"! {question}" in found.summary()


@pytest.mark.parametrize("factor", [0.35, 1.0, 2.8])
def test_honest_counts_of_flops_are_not_asked_about(factor):
    """Attention over a long context, an idle embedding: 6 N D is nobody's exact count."""
    table = profiles()
    table["C"] *= factor
    _, fits, _ = answered(table)
    assert not [said for said in fits.warnings if "units" in said]


@pytest.mark.parametrize(
    "name",
    ["epoch_chinchilla_245.csv", "kyotakano_llm_df.csv", "gemstones_hot.csv",
     "gemstones_slim_chinchilla.csv", "isoflops_curves.json"],
)  # fmt: skip
def test_published_tables_are_in_units(published, name):
    runs = read(published(name))
    assert not [said for said in table_warnings(runs, cells(runs)) if "units" in said]


def write(table, path):
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("units", "places"),
    [
        ({"N": 1e-9}, ["column 'params': the largest is "]),
        ({"D": 1e-9}, ["column 'tokens': the largest is "]),
        ({"C": 8.64e-19}, ["column 'budget': the largest is 86.4, less than 1e+06. Give single"]),
    ],
)
def test_what_is_counted_in_millions_is_refused(units, places, tmp_path):
    table, path = profiles(), tmp_path / "theirs.csv"
    for column, factor in units.items():
        table[column] *= factor
    with pytest.raises(RunTableError) as caught:
        read(write(table, path))
    assert len(caught.value.faults) == len(places)
    for fault, place in zip(caught.value.faults, places, strict=True):
        assert fault.startswith(f"{path}: {place}")


def test_a_computed_budget_is_refused_as_one(tmp_path):
    table = profiles().drop(columns="C")
    table["N"] /= 1e6
    table["D"] /= 1e9
    with pytest.raises(RunTableError, match=r"'budget', computed by C = 6 N D: the largest is "):
        read(write(table, tmp_path / "theirs.csv"))


def shattered(budgets):
    """Runs without budgets, their tokens rounded by 1.5 % either way."""
    table = profiles(budgets).drop(columns="C")
    table["D"] *= np.exp(np.random.default_rng(0).uniform(-0.015, 0.015, len(table)))
    runs = Runs.of(table)
    return table_warnings(runs, cells(runs))[0]


def test_budgets_that_shatter_are_asked_about():
    mended = "give a column of budgets, or name it: --map THEIRS=budget"
    assert re.fullmatch(
        rf"\d budgets lie within 2\.\d % of each other: if they are meant as one, {mended}",
        shattered([1e19]),
    )
    assert re.fullmatch(
        rf"\d+ budgets lie within 2\.\d % of others: if they are meant as 5, {mended}",
        shattered(BUDGETS),
    )


def test_scattered_runs_are_not_asked_for_budgets():
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 9, 60), 10 ** rng.uniform(9, 11, 60)
    runs = Runs.of(pd.DataFrame({"N": n, "D": d, "L": LAW.loss(n, d)}))
    assert np.diff(np.sort(np.log(runs.table["budget"]))).min() < 0.02
    assert not table_warnings(runs, cells(runs))


def test_the_crossings_of_a_grid_are_not_asked_for_budgets():
    n, d = np.meshgrid(1e7 * 2.02 ** np.arange(6), 1e9 * 2.0 ** np.arange(6))
    grid = pd.DataFrame({"N": n.ravel(), "D": d.ravel(), "L": LAW.loss(n, d).ravel()})
    runs = Runs.of(grid)
    assert "lie within" not in str(table_warnings(runs, cells(runs)))
    less = Runs.of(grid.drop(index=[3, 11, 20]))  # some runs of it diverged
    assert "lie within" not in str(table_warnings(less, cells(less)))


@pytest.mark.parametrize(
    ("params", "tokens", "said"),
    [(1, 1, ""), (1e6, 1e9, "0.02 tokens"), (1e6, 1, "2e+07 tokens"), (1, 1e9, "2e-08 tokens")],
)
def test_millions_beside_billions_are_asked_about(params, tokens, said):
    n = np.geomspace(3e9, 6e11, 8)
    d = 20 * n
    n, d = n / params, d / tokens
    runs = Runs.of(pd.DataFrame({"N": n, "D": d, "L": LAW.loss(n, d)}))
    assert table_warnings(runs, cells(runs)) == (
        (f"{said} a weight: params in millions, or tokens in billions?",) if said else ()
    )


def test_one_profile_beside_a_few_runs_measures_hardly_an_exponent():
    alone, beside = profiles([1e19], count=8), profiles([1e17], count=2)
    _, fits, found = answered(pd.concat([alone, beside]), 1e20, ["chinchilla"])
    said = "one budget, 1e+19 FLOP, has 3 sizes or more: the exponent is hardly measured"
    assert found.summary().startswith(f"not sound: {said}")
    assert fits.unsound[0].startswith(said)
    for more in (profiles([1e17], count=3), profiles([1e16, 1e17, 1e18], count=1)):
        _, fits, _ = answered(pd.concat([alone, more]), 1e20, ["chinchilla"])
        assert not fits.unsound
