"""A sweep's folder, copied to storage while it runs: what a lost head leaves behind. Needs no ray.

SQLite wants a disk of its own, so ledger and studies stay on the head; storage gets snapshots.
"""

import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tuner.export import CURVES, TRIALS
from tuner.storage import Place

EVERY = 10.0
"""Seconds between two snapshots: as much as a lost head forgets."""
DATABASES = ("study.db", "ledger.db")
"""The ledger last: it then knows every trial that the studies know."""
FILES = (
    "sweep.toml", "plan.json", *TRIALS, CURVES, "fit.json", "report.html", "report.md", "log.txt",
)  # fmt: skip


def place_of(folder: Path, storage: Place) -> Place:
    """Where a sweep that works in `folder` keeps what others must see."""
    return storage / folder.resolve().name


class Mirror:
    """Copies what changed in `folder` to `place`."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        self.place = place
        self._copied: dict[str, float] = {}

    def copy(self) -> None:
        """Bring `place` up to date."""
        for name in FILES + DATABASES:
            written = self._written(name)
            if written > self._copied.get(name, 0.0):
                self._snapshot(name) if name in DATABASES else self._upload(name)
                self._copied[name] = written

    def restore(self) -> bool:
        """Bring back what a lost head left, unless `folder` holds a sweep; was there anything?"""
        if (self.folder / DATABASES[-1]).exists():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        found = [(self.place / name).download(self.folder / name) for name in FILES + DATABASES]
        return found[-1]

    def _written(self, name: str) -> float:
        """When a file was last written to, SQLite's log beside it counted; 0 if it is not there."""
        paths = [self.folder / name, self.folder / f"{name}-wal"]
        return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)

    def _upload(self, name: str) -> None:
        (self.place / name).upload(self.folder / name)

    def _snapshot(self, name: str) -> None:
        """Copy a database as it stands between two transactions."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / name
            with (
                closing(sqlite3.connect(self.folder / name, timeout=60)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
            (self.place / name).upload(copy)


@contextmanager
def mirrored(folder: Path, place: Place | None) -> Iterator[None]:
    """Copy `folder` to `place` every `EVERY` seconds, and once more at the end."""
    if place is None:
        yield
        return
    mirror, over = Mirror(folder, place), threading.Event()

    def copy_now_and_then() -> None:
        while not over.wait(EVERY):
            _tried(mirror, "trying again")

    thread = threading.Thread(target=copy_now_and_then, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _tried(mirror, f"what it lacks is in {folder} alone")


def _tried(mirror: Mirror, otherwise: str) -> None:
    """Copy; say so where it fails: storage may come back, and what it misses is on this disk."""
    try:
        mirror.copy()
    except (OSError, sqlite3.Error) as error:
        print(f"isoflop: {mirror.place}: {error}; {otherwise}", file=sys.stderr)
