"""The report's sections on runs: rates, curves, pruning, every trial, how it was run."""

from collections.abc import Callable, Iterator

import pandas as pd

from analysis import figures_runs, wording
from analysis.report_page import Cell, LeftOut, Picture, Section, Story, Table, table
from analysis.style import draw, draw_grid


def rates(story: Story) -> Section | LeftOut:
    """What each size's learning rate cost."""
    title = "Learning rates"
    runs = story.runs
    if missing := _missing(runs.table, "learning_rate"):
        return LeftOut(title=title, reason=missing)
    tried = runs.table.groupby(["budget", "params"])["learning_rate"].nunique()
    budgets = sorted(tried[tried > 1].index.get_level_values("budget").unique())
    if not budgets:
        return LeftOut(title=title, reason="no size was trained at more than one rate")

    def panel(budget: float) -> figures_runs.Paint:
        return lambda ax: figures_runs.learning_rates(runs, ax, budget=budget)

    figure = draw_grid(
        [panel(budget) for budget in budgets],
        columns=1 if len(budgets) == 1 else 2, width=4.8, height=2.3,
    )  # fmt: skip
    best = runs.table.loc[
        runs.table.groupby(["budget", "params"])["loss"].idxmin(), "learning_rate"
    ]
    span = f"{wording.rate(best.min())} to {wording.rate(best.max())}"
    return Section(
        key="rates",
        title=title,
        text=(f"The best rates of all sizes and budgets span {span}.",),
        pictures=(
            Picture.of(
                figure,
                "rates",
                alt=f"Loss above each size's best against learning rate, one panel a budget; best "
                f"rates from {span}.",
                caption="What a wrong rate costs: completed runs, a line a size, dark is small; "
                "rings mark the best.",
            ),
        ),
    )


def curves(story: Story) -> Section | LeftOut:
    """Loss on the way."""
    title = "Training curves"
    if story.runs.curves is None or story.runs.curves.empty:
        return LeftOut(title=title, reason="the runs came without a table of curves")
    if missing := _missing(story.runs.trials, "trial"):
        return LeftOut(title=title, reason=missing)
    figure = draw(lambda ax: figures_runs.training_curves(story.runs, ax))
    return Section(
        key="curves",
        title=title,
        pictures=(
            Picture.of(
                figure,
                "curves",
                alt="Held-out loss against FLOPs spent, a falling line a trial, a color a budget.",
                caption="Held-out loss on the way, every trial; a line that ends early was pruned.",
            ),
        ),
    )


def pruning(story: Story) -> Section | LeftOut:
    """What pruning saved."""
    title = "What pruning saved"
    if missing := _missing(story.runs.trials, "status", "flops"):
        return LeftOut(title=title, reason=missing)
    spent = figures_runs.spending(story.runs)
    total = spent[["completed", "stopped", "saved"]].sum()
    if not total["stopped"] + total["saved"]:
        return LeftOut(title=title, reason="every trial ran to its end")
    figure = draw(lambda ax: figures_runs.pruning(story.runs, ax), height=1.2 + 0.4 * len(spent))
    whole = total["completed"] + total["stopped"] + total["saved"]
    words = (
        f"Stopping trials early saved {wording.share(total['saved'] / whole)} of what all of them "
        f"would have spent; {wording.share(total['stopped'] / whole)} went into trials that were "
        "stopped."
    )
    return Section(
        key="pruning",
        title=title,
        text=(words,),
        pictures=(
            Picture.of(
                figure,
                "pruning",
                alt=words,
                caption="Where each budget's compute went: completed, stopped, not spent.",
                live=False,  # three bars, each said in words
            ),
        ),
    )


def _missing(frame: pd.DataFrame, *columns: str) -> str:
    absent = [name for name in columns if name not in frame.columns or frame[name].isna().all()]
    return f"the table has no {' and no '.join(absent)}" if absent else ""


_COLUMNS: tuple[tuple[str, str, Callable[[float], str] | None], ...] = (
    ("budget", "budget", wording.flops),
    ("num_layers", "layers", wording.count),
    ("d_model", "width", wording.count),
    ("params", "parameters", wording.count),
    ("tokens", "tokens", wording.count),
    ("learning_rate", "rate", wording.rate),
    ("batch_size", "batch", wording.count),
    ("seed", "seed", wording.count),
    ("steps", "steps", wording.count),
    ("loss", "loss", "{:.4f}".format),
    ("loss_se", "± s.e.", "{:.4f}".format),
    ("seconds", "time", wording.duration),
    ("mfu", "MFU", wording.share),
    ("status", "status", None),
    ("reason", "reason", None),
)
"""Columns of the table of trials: ours, the heading, how a number reads (None: text)."""


def trials(story: Story) -> Section:
    """Every row, sortable."""
    frame = story.runs.trials
    frame = frame if "budget" in frame.columns else story.runs.table
    shown = [column for column in _COLUMNS if not _missing(frame, column[0])]
    rows = []
    for number, row in enumerate(frame.to_dict("records"), 1):
        cells = [_cell(row[name], word) for name, _, word in shown]
        rows.append((Cell(str(number), number), *cells))
    head = ("row", *(heading for _, heading, _ in shown))
    caption = f"{len(rows)} rows of {story.source}"
    every = Table(caption=caption, head=head, rows=tuple(rows), sortable=True)
    return Section(key="trials", title="Every trial", tables=(every,))


def _cell(value: object, word: Callable[[float], str] | None) -> Cell:
    if pd.isna(value):  # pyrefly: ignore
        return Cell("")
    if word is None or not isinstance(value, int | float):
        return Cell(str(value))
    return Cell(word(value), float(value))


_PROVENANCE = (
    "sweep", "backend", "device", "dtype", "optimizer", "schedule", "warmup", "weight_decay",
    "context_length", "vocab_size", "seed", "corpus", "tokenizer", "torch", "commit",
)  # fmt: skip


def provenance(story: Story) -> Section:
    """What ran, on what, and what it cost."""
    rows = [*told(story).items(), *spent(story.runs.trials)]
    return Section(
        key="provenance",
        title="How it was run",
        tables=(table(f"Read from {story.source}", ("what", "value"), rows),),
    )


def told(story: Story) -> dict[str, str]:
    """What the table says of how it came to be."""
    frame = story.runs.trials
    found = {name: _distinct(frame[name]) for name in _PROVENANCE if not _missing(frame, name)}
    return {name: value for name, value in found.items() if value} | {
        "counts N as": story.runs.count.replace("_", " ")
    }


def _distinct(column: "pd.Series") -> str:
    values = sorted({str(value) for value in column.dropna()})
    shown = ", ".join(values[:6])
    return shown if len(values) <= 6 else f"{shown} and {len(values) - 6} more"


def spent(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Trials, FLOPs and time, as far as the table names them."""
    if not _missing(frame, "status"):
        counts = frame["status"].value_counts()
        yield "trials", ", ".join(f"{counts[name]} {name}" for name in sorted(counts.index))
    charged = "flops_charged" if not _missing(frame, "flops_charged") else "flops"
    if not _missing(frame, charged):
        yield "FLOP spent", wording.flops(float(frame[charged].sum()))
    if not _missing(frame, "seconds"):
        yield "training time, summed over trials", wording.duration(float(frame["seconds"].sum()))
    if not _missing(frame, "started"):
        yield "first trial started, UTC", str(frame["started"].min())[:19]  # to a second
