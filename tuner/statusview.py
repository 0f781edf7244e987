"""The status of a sweep as a table, once or as long as it runs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tuner import status as statuses
from tuner.status import STATUSES, BudgetStatus, SweepStatus
from tuner.terminal import Columns

HEADINGS = ("budget", "trials", "done", *STATUSES[1:4], "FLOP", "loss", "size", "rate")


def watch(folder: Path, every: float, console: Console, *, as_json: bool) -> None:
    """Show the sweep in `folder` until its run ends: redrawn on a terminal, else a line a look.

    Args:
        folder: a sweep's.
        every: seconds between two looks.
        console: to show it on.
        as_json: one line of JSON a look.

    Raises:
        ConfigError: there is no sweep.
    """
    if as_json or not console.is_terminal:
        for standing in _looks(folder, every):
            line = json.dumps(standing.to_dict()) if as_json else standing.line()
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for standing in _looks(folder, every):
            live.update(table(standing), refresh=True)


def _looks(folder: Path, every: float) -> Iterator[SweepStatus]:
    while True:
        standing = statuses.of_folder(folder)
        yield standing
        if standing.end:
            return
        time.sleep(every)


def table(status: SweepStatus) -> Group:
    """The status as a table for a terminal."""
    recalled = f", {status.recalled} trials from the record" if status.recalled else ""
    title = f"{status.name}: {status.charged:.3g} of {status.cap:.3g} FLOP{recalled}{status.left()}"
    if status.stopped:
        title += f"\n! {status.stopped}"
    columns = Columns(headings=HEADINGS, rows=[_row(b) for b in status.budgets])
    return Group(Text(title), columns, *(Text(f"! {fault}") for fault in status.unsound))


def _row(b: BudgetStatus) -> list[str]:
    counts = [str(getattr(b, name)) for name in ("planned", *STATUSES[:4])]
    best = ["", "", ""]
    if b.best_loss is not None and b.best_size is not None:
        best = [f"{b.best_loss:.4f}", f"{b.best_size[0]}x{b.best_size[1]}"]
        best.append(f"{b.best_learning_rate:.3g}")
    return [f"{b.budget:.6g}", *counts, f"{b.charged:.3g}", *best]
