"""Answers that sweeps in one storage folder share, so that no question is paid for twice. No ray.

Two trials are one question if configuration, seed, data and code are the same: then their rows are,
too, and the second is answered with what the first reported.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.progress import Progress
from tuner.space import Trial

FILE = "answers.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    question TEXT PRIMARY KEY,
    reports TEXT NOT NULL,
    device TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a trial reported, to its end or to where it was pruned."""

    reports: tuple[Progress, ...]
    device: dict[str, str]
    """What it ran on."""


class Answers:
    """What trials of this folder's sweeps reported, in one SQLite file; any number of writers."""

    def __init__(self, path: Path, name: Callable[[Trial], str]) -> None:
        """Open `path`.

        Args:
            path: the file; made if it is not there.
            name: what stands for everything that a trial's row is a function of.
        """
        self._db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        self._db.executescript(f"PRAGMA journal_mode=WAL; {_SCHEMA}")
        self._name = name

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def find(self, trial: Trial) -> Answer | None:
        """What is on record for the question of `trial`, or None."""
        row = self._db.execute(
            "SELECT reports, device FROM answers WHERE question = ?", (self._name(trial),)
        ).fetchone()
        if row is None:
            return None
        reports = tuple(Progress(**fields) for fields in json.loads(row[0]))
        return Answer(reports=reports, device=json.loads(row[1]))

    def keep(self, trial: Trial, reports: Sequence[Progress], device: dict[str, str]) -> None:
        """Enter what a trial reported, unless as much is on record."""
        if not reports:
            return
        stands = self.find(trial)
        if stands is None or stands.reports[-1].step < reports[-1].step:
            told = json.dumps([asdict(progress) for progress in reports])
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
                (self._name(trial), told, json.dumps(device)),
            )
