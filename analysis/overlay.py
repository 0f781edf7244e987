"""Several sweeps in one picture: a color, a marker and a dash each, (tales, ax) → ax."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from analysis import figures, wording
from analysis.figures import COMPUTE, LOSS, PARAMS, TOKENS
from analysis.laws import PUBLISHED, AllocationLaw, Array
from analysis.report_page import Story
from analysis.results import FitError
from analysis.style import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    Color,
    EndLabel,
    label_ends,
    log_axis,
)

CURVE = 60
"""Points a line is drawn with."""


@dataclass(frozen=True)
class Look:
    """How one sweep is drawn: three marks, so that none must be told by color alone."""

    color: Color
    marker: str
    dash: str


LOOKS = (
    Look(BLUE, "o", "-"), Look(ORANGE, "s", "--"), Look(GREEN, "D", "-."), Look(PURPLE, "^", ":"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tale:
    """One of the sweeps that are laid over each other."""

    name: str
    story: Story
    look: Look


def optimum(tales: Sequence[Tale], ax: Axes, quantity: Literal["params", "tokens"]) -> Axes:
    """N_opt or D_opt against C by each sweep's chosen fit, with bands, minima, published laws."""
    ends: list[EndLabel] = []
    largest = max(_end(tale) for tale in tales)
    for tale in tales:
        best, color = tale.story.fits.best, tale.look.color.light
        budgets = np.geomspace(_budgets(tale).min() / 2, largest, CURVE)
        law = best.n_opt if quantity == "params" else best.d_opt
        line = np.asarray(law(budgets))
        ax.plot(budgets, line, tale.look.dash, lw=1.8, color=color, label=tale.name)
        if isinstance(best.law, AllocationLaw):
            for point in best.points:
                ax.plot(
                    point.budget, getattr(point, quantity), tale.look.marker, ms=5, color=color,
                    label=f"minimum, {tale.name}",
                )  # fmt: skip
        ends.append(EndLabel(largest, float(line[-1]), tale.name, color))
    smallest = min(float(_budgets(tale).min()) for tale in tales) / 2
    _published(ax, quantity, np.geomspace(smallest, largest, CURVE))
    log_axis(ax, "x", COMPUTE, wording.flops)
    name = f"N_opt, {PARAMS}" if quantity == "params" else f"D_opt, {TOKENS}"
    log_axis(ax, "y", name, wording.count)
    _bands(tales, ax, quantity, largest)
    label_ends(ax, ends)
    return ax


def _published(ax: Axes, quantity: str, budgets: Array) -> None:
    for published in PUBLISHED:
        law = published.law.n_opt if quantity == "params" else published.law.d_opt
        line = np.asarray(law(budgets))
        ax.plot(budgets, line, ":", lw=0.9, color=MUTED.light, alpha=0.7, label=published.name)


def _bands(tales: Sequence[Tale], ax: Axes, quantity: str, largest: float) -> None:
    """95 % bands, cut at the axes' limits; none for a fit without bootstrap draws."""
    for tale in tales:
        best = tale.story.fits.best
        interval = best.n_opt_interval if quantity == "params" else best.d_opt_interval
        budgets = np.geomspace(_budgets(tale).min() / 2, largest, CURVE)
        try:
            low, high = np.transpose([interval(float(budget)) for budget in budgets])
        except FitError:
            continue
        ax.fill_between(budgets, low, high, color=tale.look.color.light, alpha=0.15, lw=0)


def profiles(tales: Sequence[Tale], ax: Axes) -> Axes:
    """Loss against N at every budget, best rates only, a color and a marker a sweep."""
    ends = []
    for tale in tales:
        color, shown = tale.look.color.light, figures.sound_profiles(tale.story.runs)
        for profile in shown:
            words = f"{tale.name}, {wording.flops(profile.budget)} FLOP"
            sizes = np.exp(profile.log_params)
            style = f"{tale.look.marker}{tale.look.dash}"
            ax.plot(sizes, profile.loss, style, ms=4, lw=1, color=color, label=words)
        if shown:
            last = shown[-1]
            end = (float(np.exp(last.log_params[-1])), float(last.loss[-1]))
            ends.append(EndLabel(*end, tale.name, color))
    log_axis(ax, "x", PARAMS, wording.count)
    ax.set_ylabel(LOSS)
    label_ends(ax, ends)
    return ax


def frontier(tales: Sequence[Tale], ax: Axes) -> Axes:
    """The lowest loss of each budget, and what each sweep's law expects beyond."""
    ends: list[EndLabel] = []
    largest = max(_end(tale) for tale in tales)
    for tale in tales:
        color, table = tale.look.color.light, tale.story.runs.table
        lowest = table.groupby("budget", as_index=False)["loss"].min()
        ax.plot(
            lowest["budget"], lowest["loss"], tale.look.marker, ms=4, color=color,
            label=f"lowest, {tale.name}",
        )  # fmt: skip
        fit = figures.loss_fit(tale.story.fits)
        if fit is None:
            continue
        budgets = np.geomspace(_budgets(tale).min(), largest, CURVE)
        line = np.asarray(fit.predict(fit.n_opt(budgets), fit.d_opt(budgets)))
        ax.plot(budgets, line, tale.look.dash, lw=1.6, color=color, label=tale.name)
        ends.append(EndLabel(largest, float(line[-1]), tale.name, color))
    log_axis(ax, "x", COMPUTE, wording.flops)
    ax.set_ylabel(LOSS)
    label_ends(ax, ends)
    return ax


def _budgets(tale: Tale) -> Array:
    return tale.story.runs.table["budget"].to_numpy(dtype=np.float64)


def _end(tale: Tale) -> float:
    """How far a sweep's law is drawn, FLOP: to what was asked of it, else ten times its runs."""
    return tale.story.target or figures.BEYOND * float(_budgets(tale).max())
