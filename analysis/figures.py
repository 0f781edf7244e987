"""Laws against runs in pictures: one function a figure, (runs, fits, ax) → ax."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis import wording
from analysis.cells import cells
from analysis.fit import Fits
from analysis.laws import PUBLISHED, AllocationLaw, Array, Law, LossLaw, Value
from analysis.profiles import Profile, profiles
from analysis.results import Fit, FitError, Interval, Point
from analysis.runs import Runs
from analysis.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    RAMP,
    EndLabel,
    budget_colors,
    label_ends,
    log_axis,
)

COMPUTE = "compute C, FLOP"
PARAMS = "parameters N"
TOKENS = "training tokens D"
LOSS = "held-out loss L, nat/token"

BEYOND = 10.0
"""How far past the runs a law is drawn where no target is named: a factor in C."""
CURVE = 80
"""Points a curve is drawn with."""
AROUND = 4.0
"""How far past the optima their intervals are shown: a factor in N."""
PROFILES = 12
"""Profiles that one figure can tell apart."""


def sound_profiles(runs: Runs) -> list[Profile]:
    """Profiles of at least three sizes, the dozen of most sizes where a table has more."""
    sound = [profile for profile in profiles(cells(runs)) if len(profile.loss) > 2]
    fullest = sorted(sound, key=lambda profile: -len(profile.loss))[:PROFILES]
    return sorted(fullest, key=lambda profile: profile.budget)


def isoflop_profiles(runs: Runs, fit: Fit | None, ax: Axes) -> Axes:
    """Loss against N, a color a budget: runs at their best rate, and curve and minimum of `fit`.

    Without a fit the runs stand alone.
    """
    shown = sound_profiles(runs)
    colors = budget_colors(profile.budget for profile in shown)
    ends = []
    for profile in shown:
        color, sizes = colors[profile.budget], np.exp(profile.log_params)
        text = f"{wording.flops(profile.budget)} FLOP"
        ax.plot(sizes, profile.loss, "o", ms=4, color=color, label=text)
        if fit is not None:
            _profile_curve(ax, profile, fit, color)
        ends.append(EndLabel(float(sizes[-1]), float(profile.loss[-1]), text, color))
    for point in fit.points if fit is not None else ():
        if np.isclose(list(colors), point.budget).any():
            ax.plot(
                point.params, point.loss, "D", ms=6, mfc=PAPER.light, mec=ORANGE.light, mew=1.6,
                label=f"minimum at {wording.flops(point.budget)} FLOP",
            )  # fmt: skip
    log_axis(ax, "x", PARAMS, wording.count)
    ax.set_ylabel(LOSS)
    label_ends(ax, ends)
    return ax


_DEGREES = {"parabola": 2, "cubic": 3}


def _profile_curve(ax: Axes, profile: Profile, fit: Fit, color: str) -> None:
    """The polynomial whose minimum `fit` takes; for other approaches, and where sizes are too few
    to leave it no choice, a line from run to run.
    """
    x, y = profile.log_params, profile.loss
    degree = _DEGREES.get(fit.name, 0)
    if degree and len(x) > degree + 1:
        curve = np.polynomial.Polynomial.fit(x, y, degree)
        x = np.linspace(x[0], x[-1], CURVE)
        y = curve(x)
    ax.plot(np.exp(x), y, "-", lw=1.1, color=color)


def n_opt(runs: Runs, fits: Fits, ax: Axes, *, target: float | None = None) -> Axes:
    """N_opt against C: the chosen fit and its band, minima of the profiles, published laws.

    Dashed beyond the runs' budgets, up to `target` FLOP or ten times the largest budget.
    """
    return _allocation(runs, fits, ax, "params", target)


def d_opt(runs: Runs, fits: Fits, ax: Axes, *, target: float | None = None) -> Axes:
    """D_opt against C, as `n_opt` draws N_opt."""
    return _allocation(runs, fits, ax, "tokens", target)


def _allocation(
    runs: Runs, fits: Fits, ax: Axes, quantity: Literal["params", "tokens"], target: float | None
) -> Axes:
    span = _Span.of(runs, target)
    best = fits.best
    optimum = _optimum(best.fitted, quantity)
    ends = [EndLabel(span.end, float(optimum(span.end)), "this fit", BLUE.light)]
    for published in PUBLISHED:
        line = _optimum(published.law, quantity)(span.budgets)
        ax.plot(span.budgets, line, ":", lw=1.1, color=MUTED.light, label=published.name)
        ends.append(EndLabel(span.end, float(line[-1]), published.name, MUTED.light))
    _law_line(ax, span, optimum)
    for point in _minima(fits):
        ax.plot(
            point.budget, getattr(point, quantity), "o", ms=5, color=BLUE.light,
            label="minimum of a profile",
        )  # fmt: skip
    if target is not None:
        _star(ax, target, optimum)
    log_axis(ax, "x", COMPUTE, wording.flops)
    name = f"N_opt, {PARAMS}" if quantity == "params" else f"D_opt, {TOKENS}"
    log_axis(ax, "y", name, wording.count)
    _band(ax, span, best.n_opt_interval if quantity == "params" else best.d_opt_interval)
    label_ends(ax, ends)
    return ax


def _minima(fits: Fits) -> tuple[Point, ...]:
    """Minima of the profiles by the chosen approach; beside a law of loss, whose points only
    repeat its line, by the first approach 2 there is."""
    if isinstance(fits.best.fitted, AllocationLaw):
        return fits.best.points
    others = (fit.points for fit in fits.approaches if isinstance(fit.law, AllocationLaw))
    return next(others, fits.best.points)


def _optimum(law: Law, quantity: Literal["params", "tokens"]) -> Callable[[Value], Array]:
    optimum = law.n_opt if quantity == "params" else law.d_opt
    return lambda budget: np.asarray(optimum(budget))


@dataclass(frozen=True)
class _Span:
    """Budgets over which a law is drawn."""

    low: float
    high: float
    """The runs' largest budget."""
    end: float

    @classmethod
    def of(cls, runs: Runs, target: float | None) -> "_Span":
        budgets = runs.table["budget"]
        high = float(budgets.max())
        return cls(float(budgets.min()) / 2, high, max(target or 0.0, BEYOND * high))

    @property
    def budgets(self) -> Array:
        return np.geomspace(self.low, self.end, CURVE)


def _law_line(ax: Axes, span: _Span, law: Callable[[Value], Array]) -> None:
    """A line, solid within the runs' budgets and dashed beyond them."""
    inside, outside = np.geomspace([span.low, span.high], [span.high, span.end], CURVE).T
    ax.plot(inside, law(inside), "-", lw=2, color=BLUE.light, label="fit, within the runs")
    ax.plot(outside, law(outside), "--", lw=1.6, color=BLUE.light, label="fit, beyond the runs")


def _band(ax: Axes, span: _Span, interval: Callable[[float], Interval]) -> None:
    """The 95 % band, cut at the axes' limits; none where the fit carries no bootstrap draws.

    Call when all else is plotted: a law that the runs hardly bind would hide them otherwise.
    """
    ax.autoscale(enable=False)
    try:
        low, high = np.transpose([interval(float(budget)) for budget in span.budgets])
    except FitError:
        return
    ax.fill_between(span.budgets, low, high, color=BLUE.light, alpha=0.18, lw=0)


def frontier(runs: Runs, fits: Fits, ax: Axes, *, target: float | None = None) -> Axes:
    """Loss against compute: every run, and the lowest loss that the fitted law expects."""
    span = _Span.of(runs, target)
    ax.scatter(runs.table["budget"], runs.table["loss"], s=8, color=MUTED.light, alpha=0.4, lw=0)
    for point in fits.best.points:
        ax.plot(point.budget, point.loss, "o", ms=5, color=BLUE.light, label="optimum")
    fit = loss_fit(fits)
    if fit is not None:
        _lowest_loss(ax, span, fit, target)
    log_axis(ax, "x", COMPUTE, wording.flops)
    ax.set_ylabel(LOSS)
    if fit is not None:
        _band(ax, span, lambda c: fit.loss_interval(float(fit.n_opt(c)), float(fit.d_opt(c))))
        end = float(fit.predict(fit.n_opt(span.end), fit.d_opt(span.end)))
        label_ends(ax, [EndLabel(span.end, end, fit.name, BLUE.light)])
    return ax


def _lowest_loss(ax: Axes, span: _Span, fit: Fit, target: float | None) -> None:
    def lowest(budget: Value) -> Array:
        return np.asarray(fit.predict(fit.n_opt(budget), fit.d_opt(budget)))

    _law_line(ax, span, lowest)
    if target is not None:
        _star(ax, target, lowest)


def _star(ax: Axes, target: float, law: Callable[[Value], Array]) -> None:
    ax.plot(
        target, law(target), "*", ms=13, mfc=ORANGE.light, mec=PAPER.light, label="what was asked"
    )


def profile_fit(fits: Fits) -> Fit | None:
    """The fit whose minima profiles show: the parabola if there is one, else the chosen one."""
    sound = {fit.name: fit for fit in fits.approaches if fit.law is not None}
    return sound.get("parabola") or sound.get(fits.chosen)


def loss_fit(fits: Fits) -> Fit | None:
    """The chosen fit if it has a law of loss, else the first sound one that has; None if none."""
    laws = [fit for fit in fits.approaches if isinstance(fit.law, LossLaw)]
    chosen = [fit for fit in laws if fit.name == fits.chosen]
    return next(iter(chosen + [fit for fit in laws if fit.status.state == "ok"]), None)


def loss_surface(runs: Runs, fit: Fit, ax: Axes) -> Axes:
    """Contours of the fitted L(N, D), the runs, and the path of optimal allocation."""
    points = cells(runs)
    n, d = (
        np.geomspace(v.min() / 1.5, v.max() * 1.5, CURVE) for v in (points.params, points.tokens)
    )
    losses = np.asarray(fit.predict(n[None, :], d[:, None]))
    nice = MaxNLocator(len(RAMP) - 1)
    levels = nice.tick_values(float(points.loss.min()), float(np.quantile(points.loss, 0.95)))
    colors = [color.light for color in RAMP]
    lines = ax.contour(n, d, losses, levels=levels, colors=colors, linewidths=1)
    ax.clabel(lines, fmt="%g", fontsize=7)
    ax.plot(points.params, points.tokens, "o", ms=3.5, color=MUTED.light, alpha=0.8)
    budgets = np.geomspace(n[0] * d[0], n[-1] * d[-1], CURVE) * points.flops_per_param_token
    path_n, path_d = np.asarray(fit.n_opt(budgets)), np.asarray(fit.d_opt(budgets))
    inside = (path_n > n[0]) & (path_n < n[-1]) & (path_d > d[0]) & (path_d < d[-1])
    ax.plot(path_n[inside], path_d[inside], "-", lw=2, color=ORANGE.light, label="optimum")
    log_axis(ax, "x", PARAMS, wording.count)
    log_axis(ax, "y", TOKENS, wording.count)
    if inside.any():
        end = (float(path_n[inside][-1]), float(path_d[inside][-1]))
        label_ends(ax, [EndLabel(*end, "optimum", ORANGE.light)])
    return ax


def residuals(runs: Runs, fit: Fit, ax: Axes) -> Axes:
    """How far each point's loss lies from the law, in percent, against N; a color a budget."""
    points = cells(runs)
    away = 100 * np.log(points.loss / np.asarray(fit.predict(points.params, points.tokens)))
    colors = budget_colors(points.budgets)
    color = [colors[points.budgets[number]] for number in points.profile]
    ax.axhline(0, color=INK.light, lw=0.8)
    ax.scatter(points.params, away, s=16, color=color, lw=0)
    log_axis(ax, "x", PARAMS, wording.count)
    ax.set_ylabel("loss above the law, %")
    return ax


def disagreement(fits: Fits, ax: Axes, *, budget: float) -> Axes:
    """N_opt at `budget` by every approach with its 95 % interval, and by published laws."""
    names: list[str] = []
    fitted = [fit for fit in fits.approaches if fit.law is not None]
    for fit in fitted:
        color = BLUE.light if fit.name == fits.chosen else MUTED.light
        place = len(names)
        words = wording.count(float(fit.n_opt(budget)))
        if fit.draws is not None:
            low, high = fit.n_opt_interval(budget)
            ax.plot([low, high], [place, place], "-", lw=2, color=color)
            words += f", 95 % {wording.count(low)} … {wording.count(high)}"
        ax.plot(float(fit.n_opt(budget)), place, "o", ms=6, color=color, label=words)
        names.append(f"{fit.name} (chosen)" if fit.name == fits.chosen else fit.name)
    for published in PUBLISHED:
        ax.plot(
            float(published.law.n_opt(budget)), len(names), "D", ms=5, mfc="none", mec=MUTED.light
        )
        names.append(published.name)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    laws = [*(fit.fitted for fit in fitted), *(published.law for published in PUBLISHED)]
    optima = [float(law.n_opt(budget)) for law in laws]
    ax.set_xlim(min(optima) / AROUND, max(optima) * AROUND)
    log_axis(ax, "x", f"N_opt at {wording.flops(budget)} FLOP, parameters", wording.count)
    return ax
