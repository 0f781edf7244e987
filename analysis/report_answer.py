"""The report's first sections: the answer, and how far it can be trusted."""

import math
import textwrap
from collections.abc import Callable, Sequence

from analysis import figures, wording
from analysis.comparison import Fits
from analysis.laws import PUBLISHED
from analysis.predict import Estimate, Prediction
from analysis.report_page import NO_INTERVAL, REACH, Picture, Section, Story, Table, between, table
from analysis.results import Fit, FitError, Interval
from analysis.style import draw

_SHOWN_ROWS = 8
_SHOWN_POINTS = 12
_BRIEF = 200
"""Characters of a reason; all of it stands in the fits' JSON."""


def answer(story: Story) -> Section:
    """What to train with the target budget; without one, what the law says of the budgets run."""
    if not story.fits.chosen:
        return Section(
            key="answer",
            title="No law could be fitted",
            text=(story.fits.chosen_because,),
            points=story.notes,
        )
    if story.prediction is None:
        return _law(story)
    asked = story.prediction
    return Section(
        key="answer",
        title=f"With {wording.flops(asked.budget)} FLOP",
        text=(*(f"Not sound: {why}." for why in asked.unsound), _sentence(asked)),
        tables=(_allocation_table(asked),),
        pictures=(_n_opt_picture(story),),
        points=(*(said for said in asked.warnings if said not in asked.unsound), *story.notes),
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
        interval = _given(asked.learning_rate_interval, wording.rate)
        rows.append(("peak learning rate η", wording.rate(asked.learning_rate), interval))
    if asked.batch_size is not None:
        interval = _given(asked.batch_size_interval, wording.count)
        rows.append(("batch size, sequences", str(asked.batch_size), interval))
    if asked.shape:
        shape = asked.shape
        words = (
            f"num_layers {shape.num_layers}, d_model {shape.d_model}, num_heads {shape.num_heads}, "
            f"d_ff {shape.d_ff}: {wording.count(shape.params)} parameters"
        )
        ends = [f"{end.num_layers}x{end.d_model}" for end in asked.shape_interval or ()]
        rows.append(("shape", words, " … ".join(dict.fromkeys(ends)) or NO_INTERVAL))
    caption = f"Allocation by the approach “{asked.approach}”"
    return table(caption, ("quantity", "value", "95 % interval"), rows)


def _given(interval: Interval | None, word: Callable[[float], str]) -> str:
    return between(interval, word) if interval else "given"


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
        points=story.notes,
    )


def _in_words(fit: Fit, letter: str) -> str:
    interval = fit.intervals.get(letter)
    return f" (95 % interval {between(interval, wording.exponent)})" if interval else ""


def _n_opt_picture(story: Story) -> Picture:
    best = story.fits.best
    figure = draw(lambda ax: figures.n_opt(story.runs, story.fits, ax, target=story.target))
    names = ", ".join(published.name for published in PUBLISHED)
    return Picture.of(
        figure,
        "n-opt",
        alt=(
            f"Compute-optimal parameters against compute, both logarithmic: a line of slope "
            f"{wording.exponent(best.a)} through {len(best.points)} points, with its interval, "
            f"beside the published laws of {names}."
        ),
        caption=(
            "Compute-optimal parameters: this fit with its 95 % band, dashed beyond the runs; "
            "points, the minimum of each budget; "
            "dotted, published laws, which count parameters of other data and tokenizers."
        ),
    )


def certainty(story: Story) -> Section:
    """How far the answer can be trusted: approaches side by side, what each warns of."""
    fits = story.fits
    target = story.target or float(story.runs.table["budget"].max())
    pictures = ()
    if fits.chosen:
        pictures = (_disagreement_picture(story, target),)
    return Section(
        key="certainty",
        title="How sure",
        text=(_choice(story),),
        points=_brief([*_without_conventions(fits), *_unsaid(story), *_said(fits)]),
        tables=(
            _approaches(story, target),
            *_skipped(fits),
            *_disagreement(story),
            *_validation(story),
            *_conventions(story.fits),
            *_dropped(story),
        ),
        pictures=pictures,
    )


def _brief(sentences: Sequence[str]) -> tuple[str, ...]:
    """Each sentence once and not too long, and not too many of them."""
    once = list(dict.fromkeys(sentences))
    shown = [textwrap.shorten(text, _BRIEF, placeholder=" …") for text in once[:_SHOWN_POINTS]]
    more = len(once) - len(shown)
    return (*shown, f"and {more} more like these") if more > 0 else tuple(shown)


def _choice(story: Story) -> str:
    fits = story.fits
    because = fits.chosen_because.strip().rstrip(".") + "."
    points = f"{fits.n} points, {wording.rows(len(fits.dropped))} not fitted."
    return f"{points} The answer follows “{fits.chosen}”: {because}" if fits.chosen else points


def _disagreement(story: Story) -> tuple[Table, ...]:
    reach = REACH * float(story.runs.table["budget"].max())
    rows = [
        (wording.flops(item.budget), wording.count(item.ratio), item.lowest, item.highest,
         wording.share(max(item.extra_flops.values(), default=math.nan)))
        for item in story.fits.disagreement
        if item.budget <= reach
    ]  # fmt: skip
    head = (
        "budget C, FLOP",
        "factor between N_opt",
        "smallest",
        "largest",
        "compute wasted at worst",
    )
    return (table("How far the approaches disagree", head, rows),) if rows else ()


def _approaches(story: Story, target: float) -> Table:
    tried = [fit for fit in story.fits.approaches if fit.status.state != "skipped"]
    rows = [_approach_row(fit, target) for fit in tried]
    head = (
        "approach", "exponent a", "95 % interval",
        f"N_opt at {wording.flops(target)} FLOP", "95 % interval", "state",
    )  # fmt: skip
    return table("Every approach on the same runs", head, rows)


def _skipped(fits: Fits) -> tuple[Table, ...]:
    """Approaches that the runs cannot support, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for fit in fits.approaches:
        if fit.status.state == "skipped":
            reasons.setdefault(fit.status.reason, []).append(fit.name)
    rows = [
        (", ".join(names), textwrap.shorten(reason, _BRIEF, placeholder=" …"))
        for reason, names in reasons.items()
    ]
    caption = "Approaches that these runs cannot support"
    return (table(caption, ("skipped", "reason"), rows),) if rows else ()


def _unsaid(story: Story) -> list[str]:
    """What the fits warn of and neither the answer nor an approach says."""
    said = {
        f"{fit.name}: {text}"
        for fit in story.fits.approaches
        for text in (fit.status.reason, *fit.warnings)
    }
    said.update(story.prediction.warnings if story.prediction else ())
    return [warning for warning in story.fits.warnings if warning not in said]


def _said(fits: Fits) -> list[str]:
    """What approaches warn of, one warning once; a state's reasons stand in tables."""
    warned: dict[str, list[str]] = {}
    for fit in fits.approaches:
        for warning in fit.warnings:
            if warning not in fit.status.reason:
                warned.setdefault(warning, []).append(fit.name)
    return [f"{', '.join(names)}: {warning}" for warning, names in warned.items()]


def _approach_row(fit: Fit, target: float) -> tuple[str, ...]:
    state = fit.status.state
    if fit.status.reason:
        state += f": {textwrap.shorten(fit.status.reason, _BRIEF, placeholder=' …')}"
    if fit.law is None:
        return (fit.name, *[NO_INTERVAL] * 4, state)
    a = between(fit.intervals["a"], wording.exponent) if "a" in fit.intervals else NO_INTERVAL
    try:
        n_opt = between(fit.n_opt_interval(target), wording.count)
    except FitError:
        n_opt = NO_INTERVAL
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


def _conventions(fits: Fits) -> tuple[Table, ...]:
    rows = [
        (row.count.replace("_", " "), row.flops, row.approach,
         NO_INTERVAL if row.a is None else wording.exponent(row.a),
         NO_INTERVAL if row.interval is None else between(row.interval, wording.exponent),
         textwrap.shorten(row.reason, _BRIEF, placeholder=" …"))
        for row in fits.conventions.exponents
    ]  # fmt: skip
    head = ("N counts", "C counts", "approach", "exponent a", "95 % interval", "doubt")
    caption = "The same runs under other ways to count weights and FLOPs"
    return (table(caption, head, rows),) if rows else ()


def _without_conventions(fits: Fits) -> tuple[str, ...]:
    reason = fits.conventions.left_out
    return (f"Exponents under other conventions are left out: {reason}.",) if reason else ()


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
    return Picture.of(
        figure,
        "disagreement",
        alt=(
            f"Optimal parameters at {wording.flops(target)} FLOP by {len(found)} approaches, from "
            f"{wording.count(min(values))} to {wording.count(max(values))}, and by published laws."
        ),
        caption=(
            "The same question put to every approach, with 95 % intervals; diamonds are "
            "published laws."
        ),
    )
