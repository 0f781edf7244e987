"""Watches a running sweep: the run table as trials end, a live table or heartbeat lines."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial
from rich.console import Console
from rich.live import Live

from tuner import status, statusview
from tuner.engine import Engine

EXPORT_EVERY = 2.0
"""Seconds between two writings of the run table; the ledger holds every trial at once."""
SHOWING_SHARE = 0.02
"""Most of the driver's time that each of table and status may take: both grow with the sweep."""
HEARTBEAT_EVERY = 15.0
"""Seconds between two lines where there is no terminal."""
LIVE_EVERY = 1.0
"""Seconds between two drawings of the live table."""


class Unsaved:
    """Left out of Ray's snapshots, which pickle all they are handed: the ledger is the record."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """An empty object."""
        return object, ()


class Watcher(Unsaved, Callback):
    """Shows and writes where the sweep stands."""

    def __init__(self, engine: Engine, log: Path, export: Callable[[], object]) -> None:
        self.engine = engine
        self.export = export
        self._log = log
        self._console = Console(file=sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._next_showing = 0.0
        self._next_export = 0.0

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """Show the status, now and then."""
        began, terminal = time.monotonic(), self._console.is_terminal
        if began < self._next_showing:
            return
        standing = status.of(self.engine.sweep, self.engine.ledger)
        if terminal:
            self._live.start()
            self._live.update(statusview.table(standing), refresh=True)
        else:
            self._console.print(standing.line(), highlight=False, soft_wrap=True)
        with self._log.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {standing.line()}\n")
        self._next_showing = _next(began, LIVE_EVERY if terminal else HEARTBEAT_EVERY)

    def on_trial_complete(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Write the run table, unless it was written just now."""
        began = time.monotonic()
        if began > self._next_export:
            self.export()
            self._next_export = _next(began, EXPORT_EVERY)

    def on_experiment_end(self, trials: list[RayTrial], **info: Any) -> None:
        """Leave the terminal as it was."""
        self._live.stop()


def _next(began: float, least: float) -> float:
    """When to do again what began at `began` and is done now."""
    now = time.monotonic()
    return now + max(least, (now - began) / SHOWING_SHARE)
