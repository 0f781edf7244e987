"""A large cluster in simulated time: the real engine, 64 slots, 2,000 trials on a known law.

    python tests/benchmarks/scale.py     [--slots 64] [--trials 2000] [--quick]

Training is pretended; every decision is made for real and timed. Prints one line of JSON: how busy
the slots are, what the driver spends a trial and a report, how many reports a second it is told of
and how many it could take, and what a mirror's snapshot of the ledger costs. Times are of the
processor, not the clock's, but the snapshot's.
"""

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tuner import plan
from tuner.config import Sweep, parse
from tuner.ledger import ENDED, Ledger
from tuner.provenance import commit
from tuner.search import Studies
from tuner.simulate import Simulation

CEILING = 215
"""Reports a second that Tune's driver takes from all trials together (measured on two cores)."""
A_TRIAL = 0.35
"""Seconds that Tune takes to start a trial in an actor that is there (measured likewise)."""
GPU = 4e14
"""FLOP/s of a slot: 40 % of an H100's bfloat16 peak."""


def sweep_of(trials: int, slots: int) -> Sweep:
    """Five budgets over two decades, seven sizes each, as in `paper.toml`; rates fill it up.

    Nothing is pruned or added, so that the number of trials is what is asked.
    """
    table: dict[str, Any] = {
        "name": "scale",
        "backend": "law",
        "budgets": [1e17, 3e17, 1e18, 3e18, 1e19],
        "shapes": {"per_budget": 7, "context_length": 1024, "head_size": 64},
        "training": {"batch_size": 32},
        "search": {"trials": max(1, round(trials / 35)), "extend": False},
        "resources": {"flops_per_second": GPU, "slots": slots},
        "pruning": {"enabled": False},
    }
    return parse(table, place="scale")


def measure(sweep: Sweep, slots: int, folder: Path) -> dict[str, float]:
    """Run it and say what the slots and the driver did."""
    ledger = Ledger(folder / "ledger.db")
    studies = Studies(sweep, folder / "study.db", plan.vocabulary(sweep))
    simulation = Simulation(sweep, ledger, studies, folder / "checkpoints", slots=slots)
    began, starts = time.process_time(), []
    for number, _ in enumerate(simulation, 1):
        if number % 100 == 0:
            starts.append(time.process_time() - began)
            print(f"{number} trials, {starts[-1]:.0f} s", file=sys.stderr)
    spent = time.process_time() - began
    trials = len(ledger.records(*ENDED))
    reports = sum(len(ledger.reports(record.key)) for record in ledger.records(*ENDED))
    snapshot = snapshot_seconds(folder)
    busy = float(ledger.charged()) / sweep.resources.flops_per_second
    ledger.close()
    first, last = starts[0] / 100, (starts[-1] - starts[-2]) / 100
    return {
        "trials": trials,
        "reports": reports,
        "simulated_hours": simulation.now / 3600,
        "utilization": busy / (simulation.now * slots),
        "driver_seconds_per_trial_first": first,
        "driver_seconds_per_trial_last": last,
        "reports_per_second_told": reports / simulation.now,
        "reports_per_second_engine": reports / spent,
        "driver_share": spent / simulation.now,
        "snapshot_seconds": snapshot,
        "ledger_megabytes": (folder / "ledger.db").stat().st_size / 2**20,
    }


def snapshot_seconds(folder: Path) -> float:
    """What a copy of the ledger takes, as `tuner.mirror` makes it every ten seconds."""
    began = time.perf_counter()
    with (
        closing(sqlite3.connect(folder / "ledger.db")) as source,
        closing(sqlite3.connect(folder / "copy.db")) as target,
    ):
        source.backup(target)
    return time.perf_counter() - began


def limits(found: dict[str, float], slots: int) -> dict[str, float]:
    """Mean seconds of a trial below which the driver, not the slots, sets the pace."""
    a_trial = found["reports"] / found["trials"] / CEILING + A_TRIAL
    engine = found["driver_seconds_per_trial_last"]
    return {
        "shortest_trial_seconds": slots * (a_trial + engine),
        "mean_trial_seconds": found["simulated_hours"] * 3600 * slots / found["trials"],
        "most_slots_at_an_hour": 3600 / (a_trial + engine),
    }


def main() -> None:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="210 trials on 8 slots")
    options = parser.parse_args()
    slots, trials = (8, 210) if options.quick else (options.slots, options.trials)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(sweep_of(trials, slots), slots, Path(folder))
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    print(
        json.dumps(
            {
                "slots": slots,
                **found,
                **limits(found, slots),
                "machine": machine,
                "commit": commit(),
            }
        )
    )


if __name__ == "__main__":
    main()
