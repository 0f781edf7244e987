"""What the engine costs beside the training it schedules, on real Ray with a law that sleeps.

    python tests/benchmarks/overhead.py     [--quick] [--markdown FILE]

First trials of some seconds on two slots: which share of the slots' time is training once the first
trial trains, and what else a trial takes. Then many trials that take no time at all: the driver's
memory, its processor time and the wall's, a row each few hundred trials. The sweep is the command
itself in a process of its own, looked at from outside.
"""

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli_w

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from running import ENDED, Running

from tuner.ledger import Ledger
from tuner.provenance import commit

SLOTS = 2
LOOK_EVERY = 0.1
BASE: dict[str, Any] = {
    "backend": "law",
    "shapes": {"per_budget": 10},
    "resources": {"slots": SLOTS},
}
MANY = 10
"""Budgets of the long sweep."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The driver at one moment."""

    ended: int
    """Trials."""
    wall: float
    """Seconds since the first trial began."""
    cpu: float
    """Processor seconds of the driver, start-up included."""
    memory: float
    """Resident, MiB."""


@dataclass(frozen=True, kw_only=True)
class Busy:
    """Slots that train."""

    trials: int
    wall: float
    """Seconds from the first trial's beginning to the last one's end."""
    training: float
    """Seconds of training in all slots together."""
    cpu: float
    """Processor seconds of the driver in that time."""

    @property
    def share(self) -> float:
        """Of the slots' time, spent on training."""
        return self.training / (SLOTS * self.wall)

    @property
    def overhead(self) -> float:
        """Slot seconds a trial that are not training."""
        return (SLOTS * self.wall - self.training) / self.trials


def main() -> None:
    """Measure both and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--markdown", type=Path, help="also write the curve as a table")
    options = parser.parse_args()
    quick = options.quick
    with tempfile.TemporaryDirectory() as base:
        busy = slots_busy(Path(base) / "busy", 20 if quick else 200, 2.0 if quick else 5.0)
        curve = growth(Path(base) / "many", 100 if quick else 2000, 20 if quick else 200)
    text = report(busy, curve)
    print(text, file=sys.stderr)
    if options.markdown:
        options.markdown.write_text(text)
    first, last = rows(curve)[0], rows(curve)[-1]
    print(
        json.dumps(
            {
                "busy": round(busy.share, 4),
                "overhead_s_per_trial": round(busy.overhead, 3),
                "driver_cpu_s_per_trial": round(busy.cpu / busy.trials, 3),
                "trials": curve[-1].ended,
                "wall_ms_first_last": [round(first[1]), round(last[1])],
                "cpu_ms_first_last": [round(first[2]), round(last[2])],
                "memory_mib_first_last": [round(first[3]), round(last[3])],
                "machine": machine(),
                "commit": commit(),
            }
        )
    )


def slots_busy(folder: Path, trials: int, seconds: float) -> Busy:
    """Trials of `seconds` each, none cut short."""
    sweep = {
        **BASE, "name": "busy", "budgets": [1e13, 1e14],
        "search": {"trials": trials // 20, "extend": False}, "pruning": {"enabled": False},
        "law": {"seconds_per_trial": seconds},
    }  # fmt: skip
    looks = watched(sweep, folder, trials, every=1)
    ledger = Ledger.reading(folder / "sweep" / "ledger.db")
    training = sum(last.seconds for last in ledger.lasts().values())
    ledger.close()
    return Busy(
        trials=trials,
        wall=looks[-1].wall,
        training=training,
        cpu=looks[-1].cpu - looks[0].cpu,
    )


def growth(folder: Path, trials: int, every: int) -> list[Look]:
    """Trials that take no time, and a look at the driver each `every` of them."""
    budgets = [1e13 * 2**n for n in range(MANY)]
    each = trials // (MANY * BASE["shapes"]["per_budget"])
    sweep = {
        **BASE,
        "name": "many",
        "budgets": budgets,
        "search": {"trials": each, "extend": False},
    }
    return watched(sweep, folder, trials, every=every)


def watched(sweep: dict[str, Any], folder: Path, trials: int, *, every: int) -> list[Look]:
    """Run a sweep; looks at its start, after each `every` trials, and at its end."""
    folder.mkdir()
    file = folder / "sweep.toml"
    file.write_text(tomli_w.dumps(sweep))
    running = Running(folder / "log", "run", str(file), "--yes", "--dir", str(folder / "sweep"))
    began, ledger = first_report(running, folder / "sweep" / "ledger.db")
    looks = [look(running, 0, began)]
    while looks[-1].ended < trials:
        if running.process.poll() is not None:
            raise SystemExit(f"the sweep ended early:\n{running.output()}")
        counts = ledger.counts()
        ended = sum(counts.get(name, 0) for name in ENDED)
        if ended >= min(trials, every * (looks[-1].ended // every + 1)):
            looks.append(look(running, ended, began))
        time.sleep(LOOK_EVERY)
    ledger.close()
    said = running.output()
    if running.process.returncode:
        raise SystemExit(said)
    return looks


def first_report(running: Running, path: Path) -> tuple[float, Ledger]:
    """When the first trial began to train, and the ledger it reported to."""
    while running.process.poll() is None:
        time.sleep(LOOK_EVERY)
        if not path.exists():
            continue
        try:
            ledger = Ledger.reading(path)
        except sqlite3.OperationalError:  # it is being made
            continue
        seen = list(ledger.lasts().values())
        if seen:
            return time.monotonic() - max(last.seconds for last in seen), ledger
        ledger.close()
    raise SystemExit(running.output())


def look(running: Running, ended: int, began: float) -> Look:
    """The driver now."""
    process = Path("/proc") / str(running.process.pid)
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int((process / "statm").read_text().split()[1])
    return Look(
        ended=ended,
        wall=time.monotonic() - began,
        cpu=ticks / os.sysconf("SC_CLK_TCK"),
        memory=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    )


def rows(curve: list[Look]) -> list[tuple[int, float, float, float]]:
    """Trials ended, wall and processor milliseconds a trial since the row before, MiB."""
    found = []
    for before, after in pairwise(curve):
        trials = after.ended - before.ended
        wall, cpu = after.wall - before.wall, after.cpu - before.cpu
        found.append((after.ended, 1000 * wall / trials, 1000 * cpu / trials, after.memory))
    return found


def report(busy: Busy, curve: list[Look]) -> str:
    """Both as Markdown."""
    lines = [
        f"`overhead.py` on {machine()}, commit {commit()}.",
        "",
        f"{busy.trials} trials of {busy.training / busy.trials:.3g} s on {SLOTS} slots: "
        f"{busy.share:.1%} of the slots' time is training, {busy.overhead:.2f} s a trial is not; "
        f"the driver takes {busy.cpu / busy.trials:.2f} s of processor time a trial.",
        "",
        f"{curve[-1].ended} trials that take no time, on {SLOTS} slots:",
        "",
        "| trials ended | wall, ms a trial | driver's CPU, ms a trial | its memory, MiB |",
        "|---:|---:|---:|---:|",
        *(f"| {n} | {wall:.0f} | {cpu:.0f} | {mib:.0f} |" for n, wall, cpu, mib in rows(curve)),
    ]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What it was measured on."""
    return f"{os.cpu_count()} cores, {platform.machine()}"


if __name__ == "__main__":
    main()
