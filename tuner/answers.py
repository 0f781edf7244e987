"""Answers that sweeps in one storage folder share, so that no question is paid for twice. No ray.

Two trials are one question if configuration, seed, data and code are the same: then their rows are,
too, and the second is answered with what the first reported. A question that is being answered is
taken: another sweep puts it off until then, or until its taker has been silent for too long.
"""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.progress import Progress
from tuner.meter import Clock
from tuner.space import Trial

FILE = "answers.db"
SILENCE = 120.0
"""Seconds after which a sweep that gave no sign of life has lost the questions it had taken."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    question TEXT PRIMARY KEY,
    reports TEXT NOT NULL,
    device TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken (
    question TEXT PRIMARY KEY,
    sweep TEXT NOT NULL,
    until REAL NOT NULL
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

    def __init__(
        self, path: Path, name: Callable[[Trial], str], sweep: str, *, clock: Clock = time.time
    ) -> None:
        """Open `path`.

        Args:
            path: the file; made if it is not there.
            name: what stands for everything that a trial's row is a function of.
            sweep: which one asks; the same when it goes on.
            clock: seconds, the same for all who share the file.
        """
        self._db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        self._db.executescript(f"PRAGMA journal_mode=WAL; {_SCHEMA}")
        self._name = name
        self._sweep = sweep
        self._clock = clock
        self._renewed = -math.inf

    def close(self) -> None:
        """Give up what is taken, and close the file."""
        self._db.execute("DELETE FROM taken WHERE sweep = ?", (self._sweep,))
        self._db.close()

    def take(self, trial: Trial) -> bool:
        """Take the question of `trial`, to answer it; False if another sweep is about to."""
        now = self._clock()
        taken = self._db.execute(
            "INSERT INTO taken VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
            "SET sweep = excluded.sweep, until = excluded.until "
            "WHERE sweep = excluded.sweep OR until < ?",
            (self._name(trial), self._sweep, now + SILENCE, now),
        )
        return taken.rowcount == 1

    def renew(self) -> None:
        """Give a sign of life; call it as often as you like."""
        now = self._clock()
        if now - self._renewed > SILENCE / 10:
            self._renewed = now
            self._db.execute(
                "UPDATE taken SET until = ? WHERE sweep = ?", (now + SILENCE, self._sweep)
            )

    def drop(self, trial: Trial) -> None:
        """Give a question up, answered or not."""
        self._db.execute(
            "DELETE FROM taken WHERE question = ? AND sweep = ?", (self._name(trial), self._sweep)
        )

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
