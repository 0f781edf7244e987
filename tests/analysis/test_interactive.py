"""The live twin of a drawing says what the drawing shows."""

import json

import numpy as np
import pytest

from analysis import interactive, style, wording


def paint(ax):
    x = np.array([1e3, 1e4, 1e5])
    ax.fill_between(x, [1, 2, 3], [2, 3, 4], color=style.BLUE.light, alpha=0.25, lw=0)
    ax.plot(x, [1.0, 2.0, np.nan], "--", lw=2, color=style.BLUE.light, label="a fit")
    ax.plot(x, [1.5, 2.5, 3.5], "o", ms=6, mfc="none", mec=style.ORANGE.light)
    ax.scatter(x, [3, 2, 1], s=16, color=[style.INK.light, style.BLUE.light, style.GREEN.light])
    ax.axhline(2.0, color=style.INK.light)
    style.log_axis(ax, "x", "parameters N", wording.count)
    ax.set_ylabel("loss")
    ax.set_title("a panel")
    style.label_ends(ax, [style.EndLabel(1e5, 3.5, "end </script>", style.INK.light)])


@pytest.fixture(scope="module")
def text():
    figure = style.draw(paint)
    style.svg(figure, "one")
    return interactive.spec(figure)


@pytest.fixture(scope="module")
def drawn(text):
    return json.loads(text)


def test_the_same_figure_gives_the_same_text(text):
    figure = style.draw(paint)
    style.svg(figure, "another")
    assert interactive.spec(figure) == text


def test_colors_follow_the_page_and_no_text_ends_the_script(text):
    assert not [color.name for color in style.PALETTE if color.light in text]
    assert "</" not in text


def test_points_are_the_artists_own(drawn):
    traces = {trace.get("mode", "") + trace.get("line", {}).get("dash", ""): trace
              for trace in drawn["data"]}  # fmt: skip
    dashed = traces["linesdash"]
    assert (dashed["x"], dashed["y"]) == ([1e3, 1e4, 1e5], [1.0, 2.0, None])
    assert dashed["text"][1] == "<b>a fit</b><br>parameters N: 10k<br>loss: 2"
    assert dashed["line"]["color"] == "var(--blue)"


def test_markers_bands_and_lines_across(drawn):
    hollow = [t for t in drawn["data"] if t.get("marker", {}).get("symbol") == "circle-open"]
    (colored,) = [t for t in drawn["data"] if isinstance(t.get("marker", {}).get("color"), list)]
    (band,) = [t for t in drawn["data"] if t.get("fill")]
    (across,) = [t for t in drawn["data"] if t.get("y") == [2.0, 2.0]]
    assert hollow[0]["marker"]["color"] == "var(--orange)"
    assert colored["marker"]["color"] == ["var(--ink)", "var(--blue)", "var(--green)"]
    assert (band["opacity"], band["hoverinfo"]) == (0.25, "skip")
    assert across["x"] == pytest.approx(
        [10**v for v in drawn["layout"]["xaxis"]["range"]], rel=1e-3
    )


def test_axes_keep_scale_range_ticks_and_place(drawn):
    x, y = drawn["layout"]["xaxis"], drawn["layout"]["yaxis"]
    assert (x["type"], y["type"]) == ("log", "linear")
    assert x["range"][0] < 3
    assert x["range"][1] > 5
    assert dict(zip(x["ticktext"], x["tickvals"], strict=True))["10k"] == 1e4
    assert 0 < x["domain"][0] < x["domain"][1] < 1
    assert [note["text"] for note in drawn["layout"]["annotations"]] == ["end </script>", "a panel"]
    assert drawn["layout"]["annotations"][0]["x"] == 5


def test_panels_stand_apart():
    figure = style.draw_grid([paint, paint], columns=2, width=8, height=3)
    style.svg(figure, "two")
    drawn = json.loads(interactive.spec(figure))
    left, right = drawn["layout"]["xaxis"]["domain"], drawn["layout"]["xaxis2"]["domain"]
    assert left[1] < right[0]
    assert {trace["xaxis"] for trace in drawn["data"]} == {"x", "x2"}
    axes = [drawn["layout"][f"{name}axis{number}"] for name in "xy" for number in ("", "2")]
    assert [axis["showticklabels"] for axis in axes] == [True, True, True, False]


def test_named_ticks_name_their_points():
    def named(ax):
        ax.plot([10.0, 20.0], [0, 1], "o", color=style.BLUE.light)
        ax.set_yticks([0, 1], ["parabola", "cubic"])
        style.log_axis(ax, "x", "N", wording.count)

    figure = style.draw(named)
    style.svg(figure, "named")
    drawn = json.loads(interactive.spec(figure))
    assert drawn["data"][0]["text"][1] == "N: 20<br>cubic"
    assert drawn["layout"]["yaxis"]["ticktext"] == ["parabola", "cubic"]


def test_contours_are_lines_with_their_levels():
    def hill(ax):
        x = np.linspace(1, 10, 20)
        lines = ax.contour(x, x, x[None, :] * x[:, None], levels=[20, 50])
        ax.clabel(lines, fmt="%g")
        style.log_axis(ax, "x", "N", wording.count)

    figure = style.draw(hill)
    style.svg(figure, "hill")
    drawn = json.loads(interactive.spec(figure))
    assert {trace["text"][0].split("<br>")[0] for trace in drawn["data"]} == {
        "<b>20 nat/token</b>", "<b>50 nat/token</b>",
    }  # fmt: skip
    assert {note["text"] for note in drawn["layout"]["annotations"]} == {"20", "50"}
    for trace in drawn["data"]:
        product = np.multiply(trace["x"], trace["y"])
        assert np.allclose(product, product.mean(), rtol=0.02)


def test_ticks_of_a_narrow_panel_do_not_touch():
    def rates(ax):
        ax.plot([0.012, 0.03], [0, 1], "o", color=style.BLUE.light)
        style.log_axis(ax, "x", "rate", wording.rate)

    def ticks(width):
        figure = style.draw(rates, width=width)
        style.svg(figure, "rates")
        return json.loads(interactive.spec(figure))["layout"]["xaxis"]["tickvals"]

    assert 2 <= len(ticks(1.6)) <= 3
    assert len(ticks(1.6)) <= len(ticks(8))
