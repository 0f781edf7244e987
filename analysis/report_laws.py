"""The report's sections on laws: profiles, allocation of compute, loss."""

import math

import numpy as np

from analysis import figures, wording
from analysis.fit import Fits
from analysis.laws import PUBLISHED, Law
from analysis.profiles import METHODS
from analysis.report_page import (
    NO_INTERVAL,
    REACH,
    LeftOut,
    Picture,
    Section,
    Story,
    Table,
    between,
    table,
)
from analysis.results import REPORTED_BUDGETS, Fit
from analysis.style import draw

_FAR = REPORTED_BUDGETS[-2:]
_SHOWN_POINTS = 40


def isoflop(story: Story) -> Section | LeftOut:
    """IsoFLOP profiles and their minima."""
    title = "IsoFLOP profiles"
    shown = figures.sound_profiles(story.runs)
    if not shown:
        return LeftOut(title=title, reason="no budget has runs of three sizes or more")
    if refused := _refused(story):
        return LeftOut(title=title, reason=refused)
    fit = figures.profile_fit(story.fits)
    figure = draw(lambda ax: figures.isoflop_profiles(story.runs, fit, ax), height=4.0)
    budgets = ", ".join(wording.flops(profile.budget) for profile in shown)
    points = fit.points if fit else ()
    minima = ", ".join(wording.count(point.params) for point in points)
    where = f" Minima lie at {minima} parameters." if minima else ""
    return Section(
        key="profiles",
        title=title,
        pictures=(
            Picture.of(
                figure,
                "profiles",
                alt=f"Loss against parameters at budgets of {budgets} FLOP, a curve each.{where}",
                caption=_profile_caption(story, fit),
            ),
        ),
    )


def _refused(story: Story) -> str:
    """Why no approach 2 took the runs for profiles; empty where one did, or was not asked."""
    reasons = [fit.status for fit in story.fits.approaches if fit.name in METHODS]
    if not reasons or any(status.state != "skipped" for status in reasons):
        return ""
    return reasons[0].reason


def _profile_caption(story: Story, fit: Fit | None) -> str:
    tuned = "learning_rate" in story.runs.table.columns
    point = "the best learning rate of one size" if tuned else "one size"
    minima = f"; diamonds are the minima by the approach “{fit.name}”" if fit else ""
    return f"Each point is {point} at one budget{minima}."


def allocation(story: Story) -> Section | LeftOut:
    """Tokens, and loss, against compute."""
    title = "Tokens and loss against compute"
    fits = story.fits
    if not fits.chosen:
        return LeftOut(title=title, reason="no law could be fitted")
    target = story.target
    d_opt = draw(lambda ax: figures.d_opt(story.runs, fits, ax, target=target))
    frontier = draw(lambda ax: figures.frontier(story.runs, fits, ax, target=target))
    best = fits.best
    rows = [
        (wording.flops(c), wording.count(float(best.n_opt(c))), wording.count(float(best.d_opt(c))),
         wording.count(float(best.d_opt(c)) / float(best.n_opt(c))))
        for c in _table_budgets(story)
    ]  # fmt: skip
    head = ("compute C, FLOP", "N_opt", "D_opt", "tokens per parameter")
    return Section(
        key="allocation",
        title=title,
        tables=(
            table("Optimum by the chosen fit; far from the runs, only arithmetic", head, rows),
            _published(story),
            _power_laws(story),
            *_points(fits),
            *_loss_powers(fits),
        ),
        pictures=(
            Picture.of(
                d_opt,
                "d-opt",
                alt=f"Compute-optimal tokens against compute: slope {wording.exponent(best.b)}.",
                caption="Compute-optimal tokens: this fit with its 95 % band, and published laws.",
            ),
            Picture.of(
                frontier,
                "frontier",
                alt="Loss against compute: every run, and below them the lowest expected loss.",
                caption="Loss against compute: grey, every completed run; blue, the best expected.",
            ),
        ),
    )


def _published(story: Story) -> Table:
    """The chosen fit beside laws that were printed, each by its own count of N."""
    budget = story.target or float(story.runs.table["budget"].max())
    best = story.fits.best
    count = story.runs.count.replace("_", " ")
    rows = [("this fit", _exponent(best.fitted), *_optimum(best.fitted, budget), count, best.name)]
    rows += [
        (law.name, _exponent(law.law), *_optimum(law.law, budget), law.counts.replace("_", " "),
         law.source)
        for law in PUBLISHED
    ]  # fmt: skip
    at = wording.flops(budget)
    head = ("law", "exponent a", f"N_opt at {at}", f"D_opt at {at}", "N counts", "source")
    return table("Beside published laws, of other data and tokenizers", head, rows)


def _exponent(law: Law) -> str:
    return wording.exponent(float(np.mean(law.a)))


def _optimum(law: Law, budget: float) -> tuple[str, str]:
    return wording.count(float(law.n_opt(budget))), wording.count(float(law.d_opt(budget)))


def _power_laws(story: Story) -> Table:
    """Both laws of every approach, with N_opt and D_opt at the target and the usual budgets."""
    largest = float(story.runs.table["budget"].max())
    asked = story.target or story.runs.reach
    budgets = sorted({asked, *(c for c in _FAR if c < REACH * largest)})
    rows = []
    for fit in story.fits.approaches:
        if fit.law is None:
            continue
        law = fit.allocation
        values = (quantity(c) for c in budgets for quantity in (fit.n_opt, fit.d_opt))
        rows.append((
            fit.name,
            f"{float(law.n_coef):.5g} · C^{float(law.a):.5f}",
            f"{float(law.d_coef):.5g} · C^{float(law.b):.5f}",
            *(wording.count(float(value)) for value in values),
        ))  # fmt: skip
    places = (f"{letter} at {wording.flops(c)}" for c in budgets for letter in ("N_opt", "D_opt"))
    return table("Both laws, by every approach", ("approach", "N_opt", "D_opt", *places), rows)


def _points(fits: Fits) -> tuple[Table, ...]:
    """⟨C, N_opt⟩ and ⟨C, D_opt⟩ of the lowest run of each budget, where there are profiles."""
    found = [fit.points for fit in fits.approaches if fit.name == "argmin" and fit.points]
    head = ("budget C, FLOP", "N_opt", "D_opt", "loss, nat/token")
    return tuple(
        table("The lowest run of each budget", head, [
            (wording.flops(point.budget), wording.count(point.params),
             wording.count(point.tokens), wording.loss(point.loss))
            for point in points[:_SHOWN_POINTS]
        ])
        for points in found
    )  # fmt: skip


def _loss_powers(fits: Fits) -> tuple[Table, ...]:
    """L(N), L(D), L(C), where the runs bear them."""
    rows = [
        (f"L({letter})", wording.loss_power(fit.params, letter),
         between(fit.intervals["exponent"], wording.exponent) if fit.intervals else NO_INTERVAL,
         str(fit.levels), wording.share(fit.objective**0.5), fit.status.reason or "ok")
        for fit in fits.powers.fits
        for letter in (wording.LETTER[fit.variable],)
    ]  # fmt: skip
    head = ("law", "fitted", "95 % of the exponent", "levels", "error", "status")
    return (table("Loss as a power law of one quantity", head, rows),) if rows else ()


def _table_budgets(story: Story) -> list[float]:
    """The runs' budgets, the target, and the usual large ones that are not absurdly far."""
    largest = float(story.runs.table["budget"].max())
    found = {point.budget for point in story.fits.best.points}
    usual = [c for c in REPORTED_BUDGETS if c < REACH * largest]
    asked = [story.target] if story.target else []
    new = {c for c in (*usual, *asked) if not any(math.isclose(c, x, rel_tol=0.01) for x in found)}
    return sorted(found | new)


def loss_law(story: Story) -> Section | LeftOut:
    """The fitted L(N, D) and how far the runs lie from it."""
    title = "Loss as a function of parameters and tokens"
    fit = figures.loss_fit(story.fits)
    if fit is None:
        return LeftOut(title=title, reason="no law of loss could be trusted on these runs")
    surface = draw(lambda ax: figures.loss_surface(story.runs, fit, ax), height=4.0)
    residuals = draw(lambda ax: figures.residuals(story.runs, fit, ax), height=3.0)
    rows = [
        (name, f"{value:.6g}", between(fit.intervals[name], lambda v: f"{v:.4g}")
         if name in fit.intervals else "given" if name in fit.given else NO_INTERVAL)
        for name, value in fit.params.items()
    ]  # fmt: skip
    objective = f" It minimizes the {fit.objective_name}." if fit.objective_name else ""
    return Section(
        key="loss",
        title=title,
        text=(f"L(N, D) = E + (A/N^alpha + B/D^beta)^k, approach “{fit.name}”.{objective}",),
        tables=(table("Its parameters", ("letter", "value", "95 % interval"), rows),),
        pictures=(
            Picture.of(
                surface,
                "surface",
                alt="Contours of equal loss over parameters and tokens, with the runs as points "
                "and the path of optimal allocation.",
                caption="Contours of the fitted loss, nat/token; points are runs; orange, where it "
                "crosses the figure, the compute-optimal path.",
            ),
            Picture.of(
                residuals,
                "residuals",
                alt="Distance of each point's loss from the law, in percent, against parameters.",
                caption="What the law leaves unexplained; dark points are small budgets.",
            ),
        ),
    )
