"""From runs on disk to the written answer: read, fit, predict, report. Loads pandas and SciPy."""

import json
from collections.abc import Sequence
from pathlib import Path

from analysis import report
from analysis.conventions import compared
from analysis.fit import fit
from analysis.predict import Prediction, predict
from analysis.runs import Runs
from analysis.runs import read as read_table
from tuner import soundness
from tuner.config import ConfigError
from tuner.status import open_folder


def read(path: Path, column_map: Sequence[str] = ()) -> Runs:
    """The runs in `path`, whose columns `THEIRS=OURS` renames.

    Raises:
        ConfigError: a renaming is none.
        RunTableError: there is no table, or it has faults.
    """
    pairs = [pair.partition("=") for pair in column_map]
    wrong = [theirs + equals for theirs, equals, ours in pairs if not (theirs and ours)]
    if wrong:
        raise ConfigError(f"--map {wrong[0]}: expected THEIRS=OURS, e.g. --map final_loss=loss")
    return read_table(path, column_map={theirs: ours for theirs, _, ours in pairs})


def write_report(runs: Runs, source: Path, path: Path, budget: float | None) -> Prediction:
    """Fit `runs` of `source`, write the page to `path`, and in a sweep's folder fit.json too.

    Args:
        runs: as read from `source`.
        source: a sweep's folder, or a table.
        path: the HTML file.
        budget: what the answer is for, FLOP; None for ten times the largest.

    Returns:
        The answer.
    """
    target = runs.reach if budget is None else budget
    fits = compared(runs, fit(runs, at=[target]))
    prediction = predict(runs, fits, target)
    if source.is_dir():
        (source / "fit.json").write_text(json.dumps(fits.to_dict(), indent=1) + "\n")
    title = f"isoflop: {source.name}"
    report.write(runs, fits, prediction, path, title=title, notes=_notes(source))
    return prediction


def _notes(source: Path) -> list[str]:
    """What a sweep says of its own soundness; of another table there is nothing to say."""
    if not (source / "ledger.db").is_file():
        return []
    sweep, ledger, provenance = open_folder(source)
    found = soundness.faults(sweep, ledger, provenance.vocab_size)
    ledger.close()
    return found
