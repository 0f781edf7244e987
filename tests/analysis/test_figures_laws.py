"""Figures by the data on their axes."""

from dataclasses import replace

import numpy as np
import pytest
import stories
from matplotlib.figure import Figure

from analysis import figures
from analysis.cells import cells
from analysis.laws import PUBLISHED


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def told():
    return stories.story()


def lines(ax, style):
    return [line.get_xydata() for line in ax.lines if line.get_linestyle() == style]


def labels(ax):
    return [text.get_text() for text in ax.texts]


def test_profiles_show_each_sizes_best_rate(told, ax):
    figures.isoflop_profiles(told.runs, told.fits["parabola"], ax)
    points = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
    expected = cells(told.runs)
    assert np.allclose(np.sort(np.concatenate(points)[:, 1]), np.sort(expected.loss))
    assert [len(part) for part in points] == [len(stories.SHAPES)] * 3
    assert labels(ax) == ["3e10 FLOP", "1e11 FLOP", "3e11 FLOP"]
    assert ax.get_xscale() == "log"


def test_profiles_mark_the_fits_minima(told, ax):
    fit = told.fits["parabola"]
    figures.isoflop_profiles(told.runs, fit, ax)
    marks = np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() == "D"])
    assert np.allclose(marks, [(point.params, point.loss) for point in fit.points])


def test_the_curve_of_a_parabola_is_the_least_squares_parabola(told, ax):
    figures.isoflop_profiles(told.runs, told.fits["parabola"], ax)
    points = next(line.get_xydata() for line in ax.lines if line.get_marker() == "o")
    curve = lines(ax, "-")[0]
    coefficients = np.polyfit(np.log(points[:, 0]), points[:, 1], 2)
    assert np.allclose(np.polyval(coefficients, np.log(curve[:, 0])), curve[:, 1])


def test_profiles_without_a_fit_show_the_runs_alone(told, ax):
    figures.isoflop_profiles(told.runs, None, ax)
    assert {line.get_marker() for line in ax.lines} == {"o"}
    assert not lines(ax, "-")


@pytest.mark.parametrize(("draw", "optimum"), [(figures.n_opt, "n_opt"), (figures.d_opt, "d_opt")])
def test_allocation_follows_the_law_and_is_dashed_beyond_the_runs(told, ax, draw, optimum):
    draw(told.runs, told.fits, ax, target=1e13)
    law = getattr(stories.ALLOCATION, optimum)
    solid, dashed = lines(ax, "-")[0], lines(ax, "--")[0]
    for line in (solid, dashed):
        assert np.allclose(line[:, 1], law(line[:, 0]))
    assert solid[-1, 0] == dashed[0, 0] == max(stories.BUDGETS)
    assert dashed[-1, 0] == pytest.approx(1e13)
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert star.get_xydata()[0] == pytest.approx([1e13, law(1e13)])


def test_allocation_shows_the_band_and_every_published_law(told, ax):
    figures.n_opt(told.runs, told.fits, ax, target=1e13)
    band = ax.collections[0].get_paths()[0].vertices
    low, high = told.fits.best.n_opt_interval(1e13)
    at_target = band[np.isclose(band[:, 0], 1e13)][:, 1]
    assert at_target.min() == pytest.approx(low)
    assert at_target.max() == pytest.approx(high)
    assert sorted(labels(ax)) == sorted(["this fit", *(law.name for law in PUBLISHED)])
    for published, line in zip(PUBLISHED, lines(ax, ":"), strict=True):
        assert np.allclose(line[:, 1], published.law.n_opt(line[:, 0]))


def test_fits_without_draws_have_no_band(told, ax):
    bare = tuple(replace(fit, draws=None) for fit in told.fits.approaches)
    figures.n_opt(told.runs, replace(told.fits, approaches=bare), ax)
    assert not ax.collections


def test_without_a_target_the_law_ends_ten_times_past_the_runs(told, ax):
    figures.n_opt(told.runs, told.fits, ax)
    assert lines(ax, "--")[0][-1, 0] == pytest.approx(10 * max(stories.BUDGETS))


def test_the_frontier_is_the_loss_laws_optimum_below_the_runs(told, ax):
    figures.frontier(told.runs, told.fits, ax)
    law = stories.LAW
    for line in (*lines(ax, "-"), *lines(ax, "--")):
        assert np.allclose(line[:, 1], law.loss_opt(line[:, 0]))
    shown = ax.collections[0].get_offsets()
    assert np.allclose(np.sort(shown[:, 1]), np.sort(told.runs.table["loss"]))
    assert (shown[:, 1] >= law.loss_opt(shown[:, 0]) - 1e-4).all()


def test_the_frontier_without_a_loss_law_shows_the_runs(told, ax):
    only = tuple(fit for fit in told.fits.approaches if fit.name != "chinchilla")
    figures.frontier(told.runs, replace(told.fits, approaches=only), ax)
    assert not lines(ax, "-")
    assert len(ax.collections[0].get_offsets()) == len(told.runs.table)


def test_a_doubtful_loss_law_is_drawn_only_where_it_was_chosen(told):
    doubtful = tuple(
        replace(fit, status=replace(fit.status, state="doubtful")) for fit in told.fits.approaches
    )
    fits = replace(told.fits, approaches=doubtful)
    assert figures.loss_fit(fits) is None
    assert figures.loss_fit(replace(fits, chosen="chinchilla")).name == "chinchilla"


def test_a_law_that_the_runs_hardly_bind_does_not_hide_them(told, ax):
    wild = np.geomspace(1e-100, 1e100, 200)
    law = replace(stories.ALLOCATION, n_coef=wild, d_coef=1 / wild)
    loose = tuple(
        replace(fit, draws=law) if fit.name == "parabola" else fit for fit in told.fits.approaches
    )
    figures.n_opt(told.runs, replace(told.fits, approaches=loose), ax)
    low, high = ax.get_ylim()
    assert high / low < 1e5
    other = Figure().subplots()
    figures.disagreement(replace(told.fits, approaches=loose), other, budget=1e13)
    assert other.get_xlim()[1] / other.get_xlim()[0] < 1e4


def test_the_surface_holds_the_runs_and_the_optimal_path(told, ax):
    fit = told.fits["chinchilla"]
    figures.loss_surface(told.runs, fit, ax)
    runs = next(line.get_xydata() for line in ax.lines if line.get_marker() == "o")
    points = cells(told.runs)
    assert np.allclose(runs, np.transpose([points.params, points.tokens]))
    path = lines(ax, "-")[0]
    budgets = 6 * path[:, 0] * path[:, 1]
    assert np.allclose(path[:, 0], fit.n_opt(budgets))
    for level, contour in zip(ax.collections[0].levels, ax.collections[0].get_paths(), strict=True):
        if len(contour.vertices):
            losses = fit.predict(*contour.vertices.T)
            assert np.allclose(losses, level, rtol=0.01)


def test_residuals_are_percent_above_the_law(told, ax):
    figures.residuals(told.runs, told.fits["chinchilla"], ax)
    shown = ax.collections[0].get_offsets()
    points = cells(told.runs)
    assert np.allclose(shown[:, 0], points.params)
    law = stories.LAW.loss(points.params, points.tokens)
    assert np.allclose(law * np.exp(shown[:, 1] / 100), points.loss)


def test_disagreement_lists_every_fitted_approach_and_published_law(told, ax):
    figures.disagreement(told.fits, ax, budget=1e13)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [
        "parabola (chosen)", "argmin", "chinchilla", *(law.name for law in PUBLISHED)
    ]  # fmt: skip
    values = {
        line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1
    }
    assert values[0] == pytest.approx(stories.ALLOCATION.n_opt(1e13))
    assert values[2] == pytest.approx(stories.LAW.n_opt(1e13))
    bars = {
        line.get_ydata()[0]: line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2
    }
    assert set(bars) == {0, 2}
    assert bars[0] == pytest.approx(told.fits.best.n_opt_interval(1e13))
