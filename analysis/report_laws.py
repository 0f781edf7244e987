"""The report's sections on laws: the answer, how sure it is, profiles, allocation, loss."""

from collections.abc import Callable

from analysis import figures, wording
from analysis.laws import PUBLISHED
from analysis.predict import Estimate, Prediction
from analysis.report_page import LeftOut, Picture, Section, Story, Table, table
from analysis.results import REPORTED_BUDGETS, Fit, FitError, Interval
from analysis.style import draw, svg

_NO_INTERVAL = "—"
_SHOWN_ROWS = 8
_REACH = 1e3
"""How far past the runs, as a factor in C, a table of optima goes."""


def between(interval: Interval, word: Callable[[float], str]) -> str:
    """`low … high`."""
    return f"{word(interval[0])} … {word(interval[1])}"


def answer(story: Story) -> Section:
    """What to train with the target budget; without one, what the law says of the budgets run."""
    if not story.fits.chosen:
        return Section(
            key="answer", title="No law could be fitted", text=(story.fits.chosen_because,)
        )
    if story.prediction is None:
        return _law(story)
    asked = story.prediction
    return Section(
        key="answer",
        title=f"With {wording.flops(asked.budget)} FLOP",
        text=(_sentence(asked),),
        tables=(_allocation_table(asked),),
        pictures=(_n_opt_picture(story),),
        points=asked.warnings,
    )


def _sentence(asked: Prediction) -> str:
    loss = asked.loss
    expected = f"; expect a held-out loss of {wording.loss(loss.value)} nat/token" if loss else ""
    return (
        f"Train {wording.count(asked.params.value)} parameters on "
        f"{wording.count(asked.tokens.value)} tokens{expected}."
    )


def _allocation_table(asked: Prediction) -> Table:
    rows = [
        _row("parameters N", asked.params, wording.count),
        _row("training tokens D", asked.tokens, wording.count),
    ]
    if asked.loss:
        rows.append(_row("held-out loss L, nat/token", asked.loss, wording.loss))
    if asked.learning_rate is not None:
        rows.append(("peak learning rate η", wording.rate(asked.learning_rate), _NO_INTERVAL))
    if asked.batch_size is not None:
        rows.append(("batch size, sequences", str(asked.batch_size), _NO_INTERVAL))
    if asked.shape:
        shape = asked.shape
        words = (
            f"{shape.num_layers} layers, width {shape.d_model}, {shape.num_heads} heads, "
            f"d_ff {shape.d_ff}: {wording.count(shape.params)} parameters"
        )
        rows.append(("shape", words, _NO_INTERVAL))
    caption = f"Allocation by the approach “{asked.approach}”"
    return table(caption, ("quantity", "value", "95 % interval"), rows)


def _row(name: str, estimate: Estimate, word: Callable[[float], str]) -> tuple[str, str, str]:
    return name, word(estimate.value), between((estimate.low, estimate.high), word)


def _law(story: Story) -> Section:
    best = story.fits.best
    rows = [
        (wording.flops(point.budget), wording.count(point.params), wording.count(point.tokens),
         wording.loss(point.loss))
        for point in best.points
    ]  # fmt: skip
    head = ("budget C, FLOP", "N_opt", "D_opt", "loss, nat/token")
    return Section(
        key="answer",
        title="The law",
        text=(
            f"N_opt grows as C^{wording.exponent(best.a)}{_in_words(best, 'a')} and D_opt as "
            f"C^{wording.exponent(best.b)}, by the approach “{best.name}”.",
        ),
        tables=(table("Optimum of each budget", head, rows),),
        pictures=(_n_opt_picture(story),),
    )


def _in_words(fit: Fit, letter: str) -> str:
    interval = fit.intervals.get(letter)
    return f" (95 % interval {between(interval, wording.exponent)})" if interval else ""


def _n_opt_picture(story: Story) -> Picture:
    best = story.fits.best
    figure = draw(lambda ax: figures.n_opt(story.runs, story.fits, ax, target=story.target))
    names = ", ".join(published.name for published in PUBLISHED)
    return Picture(
        svg=svg(figure, "n-opt"),
        alt=(
            f"Compute-optimal parameters against compute, both logarithmic: a line of slope "
            f"{wording.exponent(best.a)} through {len(best.points)} points, with its interval, "
            f"beside the published laws of {names}."
        ),
        caption=(
            "Compute-optimal parameters: this fit with its 95 % band, dashed beyond the runs; "
            "dotted, published laws, which count parameters of other data and tokenizers."
        ),
    )


def certainty(story: Story) -> Section:
    """How far the answer can be trusted: approaches side by side, what each warns of."""
    fits = story.fits
    target = story.target or float(story.runs.table["budget"].max())
    points = [f"{fit.name}: {warning}" for fit in fits.approaches for warning in fit.warnings]
    pictures = ()
    if fits.chosen:
        pictures = (_disagreement_picture(story, target),)
    return Section(
        key="certainty",
        title="How sure",
        text=(_choice(story), *_spread(story)),
        points=(*fits.warnings, *points),
        tables=(_approaches(story, target), *_validation(story), *_dropped(story)),
        pictures=pictures,
    )


def _choice(story: Story) -> str:
    fits = story.fits
    because = fits.chosen_because.strip().rstrip(".") + "."
    points = f"{fits.n} points, {len(fits.dropped)} rows not fitted."
    return f"{points} The answer follows “{fits.chosen}”: {because}" if fits.chosen else points


def _spread(story: Story) -> tuple[str, ...]:
    def words(budget: float, ratio: float, lowest: str, highest: str) -> str:
        return (
            f"At {wording.flops(budget)} FLOP the approaches' N_opt differ by a factor "
            f"{ratio:.2g}: {lowest} gives the smallest, {highest} the largest."
        )

    return tuple(
        words(item.budget, item.ratio, item.lowest, item.highest)
        for item in story.fits.disagreement
    )


def _approaches(story: Story, target: float) -> Table:
    rows = [_approach_row(fit, target) for fit in story.fits.approaches]
    head = (
        "approach", "exponent a", "95 % interval",
        f"N_opt at {wording.flops(target)} FLOP", "95 % interval", "state",
    )  # fmt: skip
    return table("Every approach on the same runs", head, rows)


def _approach_row(fit: Fit, target: float) -> tuple[str, ...]:
    state = fit.status.state + (f": {fit.status.reason}" if fit.status.reason else "")
    if fit.law is None:
        return (fit.name, *[_NO_INTERVAL] * 4, state)
    a = between(fit.intervals["a"], wording.exponent) if "a" in fit.intervals else _NO_INTERVAL
    try:
        n_opt = between(fit.n_opt_interval(target), wording.count)
    except FitError:
        n_opt = _NO_INTERVAL
    optimum = wording.count(float(fit.n_opt(target)))
    return fit.name, wording.exponent(fit.a), a, optimum, n_opt, state


def _validation(story: Story) -> tuple[Table, ...]:
    rows = [
        (item.approach, wording.share(item.error), str(item.folds))
        for item in story.fits.validation
    ]
    if not rows:
        return ()
    caption = "Fitted on smaller budgets, asked about larger ones"
    return (table(caption, ("approach", "error of the loss", "folds"), rows),)


def _dropped(story: Story) -> tuple[Table, ...]:
    reasons: dict[str, list[str]] = {}
    for item in story.fits.dropped:
        reasons.setdefault(item.reason, []).append(str(item.row))
    rows = [(reason, str(len(found)), _first(found)) for reason, found in reasons.items()]
    head = ("reason", "rows", "which")
    return (table("Rows that no fit saw", head, rows),) if rows else ()


def _first(rows: list[str]) -> str:
    more = len(rows) - _SHOWN_ROWS
    return ", ".join(rows[:_SHOWN_ROWS]) + (f" and {more} more" if more > 0 else "")


def _disagreement_picture(story: Story, target: float) -> Picture:
    figure = draw(lambda ax: figures.disagreement(story.fits, ax, budget=target))
    found = [fit for fit in story.fits.approaches if fit.law is not None]
    values = [float(fit.n_opt(target)) for fit in found]
    return Picture(
        svg=svg(figure, "disagreement"),
        alt=(
            f"Optimal parameters at {wording.flops(target)} FLOP by {len(found)} approaches, from "
            f"{wording.count(min(values))} to {wording.count(max(values))}, and by published laws."
        ),
        caption=(
            "The same question put to every approach, with 95 % intervals; diamonds are "
            "published laws."
        ),
    )


def isoflop(story: Story) -> Section | LeftOut:
    """IsoFLOP profiles and their minima."""
    title = "IsoFLOP profiles"
    shown = figures.sound_profiles(story.runs)
    if not shown:
        return LeftOut(title=title, reason="no budget has runs of three sizes or more")
    fit = _profile_fit(story)
    figure = draw(lambda ax: figures.isoflop_profiles(story.runs, fit, ax), height=4.0)
    budgets = ", ".join(wording.flops(profile.budget) for profile in shown)
    points = fit.points if fit else ()
    minima = ", ".join(wording.count(point.params) for point in points)
    where = f" Minima lie at {minima} parameters." if minima else ""
    return Section(
        key="profiles",
        title=title,
        pictures=(
            Picture(
                svg=svg(figure, "profiles"),
                alt=f"Loss against parameters at budgets of {budgets} FLOP, a curve each.{where}",
                caption=(
                    "Each point is the best learning rate of one size at one budget; diamonds are "
                    "the minima" + (f" by the approach “{fit.name}”." if fit else ".")
                ),
            ),
        ),
    )


def _profile_fit(story: Story) -> Fit | None:
    """The parabola if it could be fitted, else the chosen approach."""
    sound = [fit for fit in story.fits.approaches if fit.law is not None]
    chosen = [fit for fit in sound if fit.name == story.fits.chosen]
    return next((fit for fit in sound if fit.name == "parabola"), chosen[0] if chosen else None)


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
        ),
        pictures=(
            Picture(
                svg=svg(d_opt, "d-opt"),
                alt=f"Compute-optimal tokens against compute: slope {wording.exponent(best.b)}.",
                caption="Compute-optimal tokens: this fit with its 95 % band, and published laws.",
            ),
            Picture(
                svg=svg(frontier, "frontier"),
                alt="Loss against compute: every run, and below them the lowest expected loss.",
                caption="Loss against compute: grey, every completed run; blue, the best expected.",
            ),
        ),
    )


def _table_budgets(story: Story) -> list[float]:
    """The runs' budgets, the target, and the usual large ones that are not absurdly far."""
    largest = float(story.runs.table["budget"].max())
    usual = {c for c in REPORTED_BUDGETS if c < _REACH * largest}
    asked = {story.target} if story.target else set()
    return sorted({point.budget for point in story.fits.best.points} | usual | asked)


def loss_law(story: Story) -> Section | LeftOut:
    """The fitted L(N, D) and how far the runs lie from it."""
    title = "Loss as a function of parameters and tokens"
    fit = figures.loss_fit(story.fits)
    if fit is None:
        return LeftOut(title=title, reason="no law of loss could be fitted to these runs")
    surface = draw(lambda ax: figures.loss_surface(story.runs, fit, ax), height=4.0)
    residuals = draw(lambda ax: figures.residuals(story.runs, fit, ax), height=3.0)
    rows = [
        (name, f"{value:.6g}", between(fit.intervals[name], lambda v: f"{v:.4g}")
         if name in fit.intervals else _NO_INTERVAL)
        for name, value in fit.params.items()
    ]  # fmt: skip
    objective = f" It minimizes the {fit.objective_name}." if fit.objective_name else ""
    return Section(
        key="loss",
        title=title,
        text=(f"L(N, D) = E + (A/N^alpha + B/D^beta)^k, approach “{fit.name}”.{objective}",),
        tables=(table("Its parameters", ("letter", "value", "95 % interval"), rows),),
        pictures=(
            Picture(
                svg=svg(surface, "surface"),
                alt="Contours of equal loss over parameters and tokens, with the runs as points "
                "and the path of optimal allocation.",
                caption="Contours of the fitted loss, nat/token; points are runs, the line is the "
                "compute-optimal path.",
            ),
            Picture(
                svg=svg(residuals, "residuals"),
                alt="Distance of each point's loss from the law, in percent, against parameters.",
                caption="What the law leaves unexplained; dark points are small budgets.",
            ),
        ),
    )
