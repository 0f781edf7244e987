"""The sections of a page that lays sweeps over each other: answers, laws, how they were run."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from analysis import overlay, wording
from analysis.overlay import Tale
from analysis.predict import Prediction
from analysis.report_page import NO_INTERVAL, LeftOut, Picture, Section, Table, between, table
from analysis.report_runs import spent, told
from analysis.results import Interval
from analysis.style import draw
from analysis.trend import Estimate

Word = Callable[[float], str]


def answer(tales: Sequence[Tale]) -> Section:
    """What each sweep says of the same budget, and whether they agree."""
    asked = [(tale, tale.story.prediction) for tale in tales if tale.story.prediction]
    budget = wording.flops(asked[0][1].budget) if asked else ""
    figure = draw(lambda ax: overlay.optimum(tales, ax, "params"))
    names = ", ".join(tale.name for tale in tales)
    return Section(
        key="answer",
        title=f"With {budget} FLOP, by {len(tales)} sweeps" if budget else names,
        text=(*_unsound(asked), *_agreement(asked)),
        tables=(_answers(asked),) if asked else (),
        pictures=(
            Picture.of(
                figure, "overlay-n-opt",
                alt=f"Compute-optimal parameters against compute by {names}, with their intervals, "
                "and published laws dotted.",
                caption="Compute-optimal parameters: a color, marker and dash a sweep, with 95 % "
                "bands; dotted, published laws.",
            ),
        ),
        points=tuple(f"{tale.name}: {said}" for tale in tales for said in _said(tale)),
    )  # fmt: skip


def _said(tale: Tale) -> tuple[str, ...]:
    found = tale.story.prediction
    warned = [said for said in found.warnings if said not in found.unsound] if found else []
    return (*warned, *tale.story.notes)


def _unsound(asked: Sequence[tuple[Tale, Prediction]]) -> Iterator[str]:
    """A sentence for whatever makes an answer unsound, before any number."""
    for tale, found in asked:
        yield from (f"{tale.name} is not sound: {why}." for why in found.unsound)


def _agreement(asked: Sequence[tuple[Tale, Prediction]]) -> Iterator[str]:
    """A sentence a pair: by how much their N_opt differ, and whether their intervals overlap."""
    for (one, first), (other, second) in combinations(asked, 2):
        a, b = first.params, second.params
        factor = max(a.value, b.value) / min(a.value, b.value)
        apart = a.low > b.high or b.low > a.high
        yield (
            f"{one.name} asks for {wording.count(a.value)} parameters, {other.name} for "
            f"{wording.count(b.value)}: a factor of {factor:.3g}, and their 95 % intervals "
            f"{'do not overlap' if apart else 'overlap'}."
        )


def _answers(asked: Sequence[tuple[Tale, Prediction]]) -> Table:
    rows = [
        ("parameters N", *(_worded(p.params, wording.count) for _, p in asked)),
        ("training tokens D", *(_worded(p.tokens, wording.count) for _, p in asked)),
        ("held-out loss L, nat/token", *(_worded(p.loss, wording.loss) for _, p in asked)),
        ("peak learning rate η", *(
            _number(p.learning_rate, p.learning_rate_interval, wording.rate) for _, p in asked
        )),
        ("batch size, sequences", *(
            _number(p.batch_size, p.batch_size_interval, wording.count) for _, p in asked
        )),
        ("shape", *(
            f"{p.shape.num_layers}x{p.shape.d_model}" if p.shape else NO_INTERVAL for _, p in asked
        )),
        ("approach", *(p.approach for _, p in asked)),
    ]  # fmt: skip
    head = ("quantity", *(tale.name for tale, _ in asked))
    return table("Each with its 95 % interval", head, rows)


def _worded(found: Estimate | None, word: Word) -> str:
    if found is None:
        return NO_INTERVAL
    return _number(found.value, (found.low, found.high), word)


def _number(value: float | None, interval: Interval | None, word: Word) -> str:
    if value is None:
        return NO_INTERVAL
    return f"{word(value)} [{between(interval, word)}]" if interval else word(value)


def laws(tales: Sequence[Tale]) -> Section:
    """Exponents by every approach, D_opt and the frontier."""
    names = ", ".join(tale.name for tale in tales)
    tokens = draw(lambda ax: overlay.optimum(tales, ax, "tokens"))
    frontier = draw(lambda ax: overlay.frontier(tales, ax))
    return Section(
        key="laws",
        title="Laws side by side",
        tables=(_exponents(tales),),
        pictures=(
            Picture.of(
                tokens, "overlay-d-opt",
                alt=f"Compute-optimal tokens against compute by {names}.",
                caption="Compute-optimal tokens, as above.",
            ),
            Picture.of(
                frontier, "overlay-frontier",
                alt=f"Lowest loss against compute of {names}, and what their laws expect beyond.",
                caption="Loss against compute: points, the lowest run of each budget; lines, the "
                "lowest loss that the law expects. Losses compare only on one "
                "corpus and tokenizer.",
            ),
        ),
    )  # fmt: skip


def _exponents(tales: Sequence[Tale]) -> Table:
    fits = [{fit.name: fit for fit in tale.story.fits.approaches if fit.law} for tale in tales]
    names = list(dict.fromkeys(name for found in fits for name in found))
    rows = [
        (name, *(
            _number(found[name].a, found[name].intervals.get("a"), wording.exponent)
            if name in found else NO_INTERVAL for found in fits
        ))
        for name in names
    ]  # fmt: skip
    head = ("exponent a by", *(tale.name for tale in tales))
    return table("N_opt grows as C^a, with 95 % intervals", head, rows)


def profiles(tales: Sequence[Tale]) -> Section | LeftOut:
    """IsoFLOP profiles laid over each other."""
    title = "IsoFLOP profiles"
    if not any(overlay.figures.sound_profiles(tale.story.runs) for tale in tales):
        return LeftOut(title=title, reason="no budget has runs of three sizes or more")
    figure = draw(lambda ax: overlay.profiles(tales, ax), height=4.0)
    names = ", ".join(tale.name for tale in tales)
    return Section(
        key="profiles",
        title=title,
        pictures=(
            Picture.of(
                figure, "overlay-profiles",
                alt=f"Loss against parameters, a curve a budget, for {names}.",
                caption="Each point is the best learning rate of one size at one budget; a color "
                "and marker a sweep.",
            ),
        ),
    )  # fmt: skip


def provenance(tales: Sequence[Tale]) -> Section:
    """How each was run: first what differs."""
    facts = [told(tale.story) | dict(spent(tale.story.runs.trials)) for tale in tales]
    names = list(dict.fromkeys(name for found in facts for name in found))
    rows = [(name, *(found.get(name, NO_INTERVAL) for found in facts)) for name in names]
    head = ("what", *(tale.name for tale in tales))
    differing = [row for row in rows if len(set(row[1:])) > 1]
    common = [row for row in rows if len(set(row[1:])) == 1]
    return Section(
        key="provenance",
        title="How they were run",
        tables=tuple(
            table(caption, head, found)
            for caption, found in (("What differs", differing), ("What is the same", common))
            if found
        ),
    )
