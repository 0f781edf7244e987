"""From runs on disk to the written answer: read, fit, predict, report. Loads pandas and SciPy."""

import json
from collections.abc import Sequence
from pathlib import Path

from analysis import report, writeup
from analysis.conventions import compared
from analysis.fit import fit
from analysis.overlay import LOOKS
from analysis.predict import Prediction, predict
from analysis.report_page import Story
from analysis.runs import Runs
from tuner import confirm, doubts
from tuner.config import load
from tuner.errors import ConfigError
from tuner.reading import read
from tuner.status import SweepStatus

MOST_OVERLAID = len(LOOKS)
"""Sweeps that one page can tell apart."""
COURSE_TARGET = 1e19
"""What the course's problem 2 predicts for, FLOP: its handout."""


def write_report(
    runs: Runs,
    source: Path,
    path: Path,
    budget: float | None,
    standing: SweepStatus | None = None,
) -> Prediction:
    """Fit `runs` of `source`, write the page to `path`, and in a sweep's folder fit.json too.

    Args:
        runs: as read from `source`.
        source: a sweep's folder, or a table.
        path: the HTML file.
        budget: what the answer is for, FLOP; None for ten times the largest.
        standing: of the sweep in `source`, where it is known.

    Returns:
        The answer.
    """
    told = _story(runs, source, runs.reach if budget is None else budget, standing)
    assert told.prediction is not None
    if source.is_dir():
        (source / "fit.json").write_text(json.dumps(told.fits.to_dict(), indent=1) + "\n")
    title = f"isoflop: {source.name}"
    report.write(
        runs, told.fits, told.prediction, path, title=title, confirmation=confirm.read(source),
        notes=told.notes,
    )  # fmt: skip
    return doubts.told_with(told.prediction, told.notes)


def write_up(
    first: Path | None,
    second: Path,
    folder: Path,
    budget: float | None,
    column_map: Sequence[str] = (),
) -> Path:
    """Write the course's deliverable to `folder`: Markdown with its numbers, and the figures.

    Args:
        first: the table of problem 1, or None.
        second: the sweep of problem 2: its folder, or a table.
        folder: for `writeup.md`.
        budget: what problem 2 predicts for, FLOP; None for the sweep's `target.budget`, and where
            it names none the course's.
        column_map: as of `read`, for both.

    Raises:
        ConfigError, RunTableError: as `read`.
        FitError: no law fits.
    """
    problem_1 = None if first is None else read(first, column_map)
    problem_2 = read(second, column_map)
    target = budget or _target(second) or COURSE_TARGET
    return writeup.write(problem_1, problem_2, folder, target=target, notes=doubts.of(second))


def _target(source: Path) -> float | None:
    """What a sweep says that its answer is for, FLOP; None of another table."""
    file = source / "sweep.toml"
    return load(file).target.budget if file.is_file() else None


def write_overlay(
    tables: Sequence[tuple[Path, Runs]], path: Path, budget: float | None
) -> list[Prediction]:
    """Fit each of `tables` and write one page to `path` that lays them over each other.

    Args:
        tables: sweeps' folders or tables, and the runs read from them; up to four.
        path: the HTML file.
        budget: what the answers are for, FLOP; None for ten times the largest of all.

    Returns:
        The answers.

    Raises:
        ConfigError: there are more than can be told apart.
    """
    if len(tables) > MOST_OVERLAID:
        raise ConfigError(f"{len(tables)} sweeps: name at most {MOST_OVERLAID} for one page")
    target = max(runs.reach for _, runs in tables) if budget is None else budget
    stories = [_story(runs, source, target) for source, runs in tables]
    names = _names([source for source, _ in tables])
    title = f"isoflop: {' and '.join(names)}"
    report.write_overlay(list(zip(names, stories, strict=True)), path, title=title)
    return [doubts.told_with(told.prediction, told.notes) for told in stories if told.prediction]


def _names(sources: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ; numbers where one was named twice."""
    resolved = [source.resolve() for source in sources]
    for parts in range(1, max(len(path.parts) for path in resolved)):
        names = ["/".join(path.parts[-parts:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(resolved, 1)]


def _story(runs: Runs, source: Path, target: float, standing: SweepStatus | None = None) -> Story:
    fits = compared(runs, fit(runs, at=[target]))
    prediction = predict(runs, fits, target)
    notes = tuple(doubts.of(source, standing))
    return Story(runs=runs, fits=fits, prediction=prediction, notes=notes)
