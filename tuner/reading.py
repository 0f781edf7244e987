"""The runs that a command is given: a folder or anybody's table. Loads pandas, draws nothing."""

from collections.abc import Sequence
from pathlib import Path

from analysis.runs import Runs
from analysis.runs import read as read_table
from tuner.errors import ConfigError


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
