import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import style, wording


def some_figure():
    def paint(ax):
        ax.plot([1, 10], [1, 2], "o-", color=style.BLUE.light)
        style.log_axis(ax, "x", "parameters N", wording.count)
        style.label_ends(ax, [style.EndLabel(10, 2, "end", style.INK.light)])

    return style.draw(paint)


def test_svg_is_the_same_every_time():
    assert style.svg(some_figure(), "one") == style.svg(some_figure(), "one")


def test_svg_has_no_date_no_size_and_no_fixed_palette_color():
    text = style.svg(some_figure(), "one")
    assert "<metadata" not in text
    assert not re.search(r'<svg[^>]*\bwidth="', text)
    assert "var(--blue)" in text
    assert "var(--ink)" in text
    assert not [color.name for color in style.PALETTE if color.light in text]


def test_two_svgs_on_a_page_share_no_id():
    one, other = (set(re.findall(r'id="([^"]+)"', style.svg(some_figure(), name))) for name in "ab")
    assert one
    assert not one & other


def test_every_reference_in_an_svg_finds_its_target():
    text = style.svg(some_figure(), "a")
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= ids
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= ids


def contrast(one, other):
    """WCAG 2.1 contrast ratio."""

    def luminance(color):
        channels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["light", "dark"])
@pytest.mark.parametrize("color", style.PALETTE, ids=lambda color: color.name)
def test_colors_stand_out_from_the_page(color, page):
    """4.5 for text and 3 for graphics, WCAG 2.1 (1.4.3 and 1.4.11); the grid is meant to recede."""
    if color in (style.PAPER, style.GRID):
        return
    ratio = contrast(getattr(color, page), getattr(style.PAPER, page))
    assert ratio >= (3 if color in style.RAMP else 4.5)


def test_the_ramp_orders_budgets():
    colors = style.budget_colors([3.0, 1.0, 2.0, 1.0])
    assert list(colors) == [1.0, 2.0, 3.0]
    assert colors[1.0] == style.RAMP[0].light
    assert colors[3.0] == style.RAMP[-1].light


@given(st.lists(st.floats(-1e3, 1e3), max_size=12), st.floats(0.1, 50))
def test_labels_are_spread_apart_and_stay_in_order(places, gap):
    spread = style._spread(places, gap, (-1e9, 1e9))
    order = np.argsort(places, kind="stable")
    moved = np.array(spread)[order]
    assert (np.diff(moved) >= gap - 1e-6).all()
    if len(places) and (np.diff(np.array(places)[order]) >= gap).all():
        assert np.allclose(spread, places)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=11))
def test_labels_stay_beside_the_axes_where_there_is_room(places):
    spread = style._spread(places, 10, (0, 100))
    assert min(spread) >= 0
    assert max(spread) <= 100 + 1e-9


@pytest.mark.parametrize(
    ("value", "text"),
    [(15700, "15.7k"), (999_999, "1M"), (7.005e10, "70B"), (1.3318e12, "1.33T"), (512, "512"),
     (0.5, "0.5"), (0, "0"), (1e-30, "≈ 0"), (float("inf"), "∞")],
)  # fmt: skip
def test_counts_in_words(value, text):
    assert wording.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(3e10, "3e10"), (1.25e21, "1.25e21"), (512.0, "512"), (5.76e23, "5.76e23")]
)
def test_flops_in_words(value, text):
    assert wording.flops(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.42, "0.42 s"), (45, "45 s"), (720, "12 min"), (12240, "3.4 h")]
)
def test_durations_in_words(value, text):
    assert wording.duration(value) == text
