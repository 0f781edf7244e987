"""Figures of runs by the data on their axes."""

from dataclasses import replace

import numpy as np
import pytest
import stories
from matplotlib.figure import Figure

from analysis import figures_runs


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def runs():
    return stories.sweep()


def test_rates_are_compared_within_one_size_and_budget(runs, ax):
    figures_runs.learning_rates(runs, ax, budget=1e11)
    lines = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) > 1]
    assert len(lines) == len(stories.SHAPES)
    for line in lines:
        assert line[:, 0].tolist() == list(stories.RATES[:2])
        assert line[:, 1].min() == 0
        assert line[0, 1] == pytest.approx(0.05 * np.log(4) ** 2)
    rings = [line for line in ax.lines if len(line.get_xydata()) == 1]
    assert {ring.get_xdata()[0] for ring in rings} == {stories.RATES[1]}
    assert ax.get_title() == "1e11 FLOP"
    assert [text.get_text() for text in ax.texts] == ["2.82k", "356k"]


def test_curves_are_one_line_a_trial(runs, ax):
    figures_runs.training_curves(runs, ax)
    assert len(ax.lines) == runs.curves["trial"].nunique()
    drawn = np.concatenate([line.get_xydata() for line in ax.lines])
    assert np.allclose(np.sort(drawn[:, 1]), np.sort(runs.curves["loss"].to_numpy(float)))
    assert [text.get_text() for text in ax.texts] == ["3e10", "1e11", "3e11"]


def test_curves_that_are_not_there_cannot_be_drawn(runs, ax):
    with pytest.raises(ValueError, match="without curves"):
        figures_runs.training_curves(replace(runs, curves=None), ax)


def test_spending_adds_up_to_what_every_trial_could_have_spent(runs):
    table = figures_runs.spending(runs)
    trials = len(stories.SHAPES) * len(stories.RATES)
    assert table["budget"].tolist() == list(stories.BUDGETS)
    parts = table[["completed", "stopped", "saved"]].sum(axis=1)
    assert np.allclose(parts, trials * table["budget"])
    assert np.allclose(table["saved"], 3 * table["stopped"])


def test_pruning_bars_are_shares_of_the_spending(runs, ax):
    figures_runs.pruning(runs, ax)
    widths = [[bar.get_width() for bar in container] for container in ax.containers]
    assert np.allclose(widths, [[200 / 3] * 3, [25 / 3] * 3, [25] * 3])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["3e10", "1e11", "3e11"]
