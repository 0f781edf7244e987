"""The course's deliverable: a write-up in Markdown with the numbers filled in, and its figures.

Problem 1 is any table of isoFLOP runs (the course's JSON file), problem 2 a table of one's own,
whose smallest budget may be an exploration of learning rates at one size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import picture, wording
from analysis.fit import Fits, fit
from analysis.predict import predict
from analysis.results import Fit
from analysis.runs import Runs

ASKED = (1e23, 1e24)
"""Budgets at which problem 1 wants N_opt and D_opt, FLOP: the course's handout."""

CAPTIONS = {
    "profiles": "Held-out loss against size, a curve a budget; diamonds mark the minima.",
    "n_opt": "Compute-optimal size against compute, dashed beyond the runs, beside published laws.",
    "d_opt": "Compute-optimal tokens against compute, likewise.",
    "frontier": "Loss against compute: the runs, and the law at its optimum, dashed beyond them.",
    "disagreement": "N_opt by every approach, with its interval, and by published laws.",
    "loss_surface": "The law's loss over size and tokens, the runs, and the line of the optimum.",
    "residuals": "How far the loss of each run lies above the law.",
}
"""What each figure shows, by its file's name."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure of the write-up."""

    path: str
    """From the write-up's folder."""
    caption: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The completed runs of one budget."""

    budget: float
    """FLOP."""
    runs: pd.DataFrame

    @property
    def explores(self) -> bool:
        """It tried learning rates at one size."""
        return len(set(self.runs["params"])) == 1

    @property
    def best(self) -> dict[str, float]:
        """The run of lowest loss."""
        rows = self.runs.sort_values("loss", kind="stable").to_dict("records")
        return {str(name): value for name, value in rows[0].items()}


def write(
    first: Runs | None, second: Runs, folder: Path, *, target: float, notes: Sequence[str] = ()
) -> Path:
    """Write `writeup.md` and its figures to `folder`.

    Args:
        first: the runs of problem 1; None leaves it out.
        second: those of problem 2.
        folder: made if need be.
        target: what problem 2 predicts for, FLOP.
        notes: what the sweep itself found unsound.

    Returns:
        The Markdown file.

    Raises:
        FitError: no law fits the runs of problem 2.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fits = fit(second, at=[target])
    prediction = predict(second, fits, target)
    stages = [Stage(budget=float(str(b)), runs=rows) for b, rows in second.table.groupby("budget")]
    environment = Environment(
        loader=PackageLoader("analysis"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    text = environment.get_template("writeup.md.jinja").render(
        say=wording,
        problem_1=None if first is None else _problem_1(first, folder / "problem_1"),
        figures=_figures(second, fits, folder / "problem_2", target),
        exploration=[stage for stage in stages if stage.explores],
        profiles=[stage for stage in stages if not stage.explores],
        asked=_asked(second), spent=float(second.table["budget"].sum()),
        fits=fits, fit=fits.best, found=prediction, target=target, notes=notes,
        others=[one for one in fits.approaches if one.law is not None],
    )  # fmt: skip
    path = folder / "writeup.md"
    path.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True, kw_only=True)
class ProblemOne:
    """What problem 1 asks for."""

    fits: Fits
    minima: Fit
    """By the run of lowest loss at each budget, as the course takes them."""
    figures: tuple[Drawn, ...]


def _problem_1(runs: Runs, folder: Path) -> ProblemOne:
    fits = fit(runs, at=ASKED)
    drawn = _figures(runs, fits, folder, max(ASKED))
    return ProblemOne(fits=fits, minima=fits["argmin"], figures=tuple(drawn))


def _figures(runs: Runs, fits: Fits, folder: Path, target: float) -> list[Drawn]:
    """Draw every figure."""
    drawn = picture.write(runs, fits, folder, target=target)
    return [Drawn(path=f"{folder.name}/{path.name}", caption=CAPTIONS[path.stem]) for path in drawn]


def _asked(runs: Runs) -> int:
    """Runs that were asked, whatever became of them."""
    return len(runs.trials)
