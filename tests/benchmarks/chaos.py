"""Sweeps on real Ray, each killed at a random moment and resumed: is anything lost, or overspent?

    python tests/benchmarks/chaos.py --runs 50     [--quick]

Of ten sweeps four lose their driver, four a worker, two a node of a three-node cluster. Half are
settled (QMC; warm start, extension and pruning off): their whole table must be the undisturbed one.
Half learn (TPE, ASHA): each row must be what its configuration gives alone. Every second ten lets
a process carry up to three trials. In all of them the ledger stays below the cap at every sampled
moment and no finished trial runs again.
"""

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from running import ENDED, Running

from analysis import runs
from tuner import plan, simulate, space
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.config import Sweep, parse
from tuner.export import export
from tuner.ledger import Ledger, Record
from tuner.provenance import Provenance, commit, read, settle
from tuner.storage import Place

KINDS = ("driver", "driver", "worker", "worker", "node")
CAP = 4e15
LEARNING: dict[str, Any] = {
    "name": "chaos",
    "backend": "law",
    "budgets": [1e13, 1e14],
    "shapes": {"per_budget": 3},
    "search": {"trials": 3, "learning_rate": [2e-3, 2e-1], "extend": False},
    "law": {"seconds_per_trial": 0.8},
    "cap": {"flops": CAP},
    "resources": {"slots": 2, "max_attempts": 6},
}
SETTLED: dict[str, Any] = {
    **LEARNING,
    "search": {**LEARNING["search"], "sampler": "qmc", "warm_start": False},
    "pruning": {"enabled": False},
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one sweep."""

    kind: str
    survived: bool
    overspent: bool
    repeated: int


def main() -> None:
    """Run them and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--backend", choices=["law"], default="law")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two sweeps")
    options = parser.parse_args()
    count = 2 if options.quick else options.runs
    with tempfile.TemporaryDirectory() as base:
        outcomes = [one(Path(base), number, options.seed) for number in range(count)]
    print(
        json.dumps(
            {
                "runs": count,
                "survived": sum(o.survived for o in outcomes),
                "overspent": sum(o.overspent for o in outcomes),
                "repeated": sum(o.repeated for o in outcomes),
                "kinds": {k: sum(o.kind == k for o in outcomes) for k in set(KINDS)},
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "commit": commit(),
            }
        )
    )


def one(base: Path, number: int, seed: int) -> Outcome:
    """One sweep, disturbed once and brought to its end."""
    rng = random.Random(str((seed, number)))
    kind, settled = KINDS[number % len(KINDS)], number // len(KINDS) % 2 == 0
    given, stack = SETTLED if settled else LEARNING, 3 if number // 10 % 2 else 1
    sweep = parse({**given, "resources": {**given["resources"], "stack": stack}}, place="chaos")
    folder, file = base / str(number) / "sweep", base / f"{number}.toml"
    folder.parent.mkdir()
    file.write_text(tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True)))
    before, overspent = disturb(sweep, file, folder, kind, rng)
    ledger = Ledger(folder / "ledger.db")
    repeated = sum(ledger.record(record.key) != record for record in before)
    survived = sound(sweep, folder, ledger, settled)
    overspent = overspent or ledger.committed() > CAP
    ledger.close()
    fate = "survived" if survived else "LOST"
    what = f"{kind}, {'settled' if settled else 'learning'}, stack = {stack}"
    print(f"{number}: {what}: {fate}, {repeated} repeated", file=sys.stderr)
    return Outcome(kind=kind, survived=survived, overspent=overspent, repeated=repeated)


def disturb(
    sweep: Sweep, file: Path, folder: Path, kind: str, rng: random.Random
) -> tuple[list[Record], bool]:
    """Run, strike, resume; the trials that had ended by then, and whether the cap was passed."""
    cluster = Cluster() if kind == "node" else None
    address = ["--address", cluster.address] if cluster else []
    running = Running(
        folder.parent / "log", "run", str(file), "--yes", "--dir", str(folder), *address
    )
    running.wait_for(folder, rng.randrange(1, plan.plan(sweep).trials - 3))
    time.sleep(rng.random())
    if kind == "driver":
        os.kill(running.process.pid, signal.SIGKILL)
    elif kind == "worker":
        os.kill(rng.choice(running.workers()), signal.SIGKILL)
    elif cluster is not None:
        cluster.kill_node()
    ledger = Ledger(folder / "ledger.db")
    before = ledger.records(*ENDED)
    overspent = watch(running, ledger)
    if kind == "driver":
        overspent |= watch(Running(folder.parent / "log2", "resume", str(folder)), ledger)
    ledger.close()
    if cluster:
        cluster.end()
    return before, overspent


def watch(running: Running, ledger: Ledger) -> bool:
    """Wait for the end; True if the ledger was ever seen above the cap."""
    over = False
    while running.process.poll() is None:
        over |= ledger.committed() > CAP
        time.sleep(0.1)
    return over


def sound(sweep: Sweep, folder: Path, ledger: Ledger, settled: bool) -> bool:
    """Is everything there that should be, and right?"""
    provenance = read(ledger)
    if provenance is None or ledger.records("running", "waiting", "failed"):
        return False
    found = table(sweep, folder, ledger, provenance)
    done = found[found["status"] == "completed"]
    covered = all(
        set(done.loc[done["budget"] == b.budget, "d_model"]) == {width for _, width in b.shapes}
        for b in plan.plan(sweep).budgets
    )
    alike = calm(sweep, folder, provenance).equals(found) if settled else True
    return alike and covered and all(alone(sweep, record, ledger) for record in ledger.records())


def calm(sweep: Sweep, folder: Path, provenance: Provenance) -> pd.DataFrame:
    """The undisturbed table, from simulated time."""
    quiet = sweep.model_copy(update={"law": sweep.law.model_copy(update={"seconds_per_trial": 0})})
    simulate.simulate(quiet, folder.parent / "calm", slots=1)
    ledger = Ledger(folder.parent / "calm" / "ledger.db")
    settle(ledger, provenance)
    found = table(sweep, folder.parent / "calm", ledger, provenance)
    ledger.close()
    return found


def table(sweep: Sweep, folder: Path, ledger: Ledger, provenance: Provenance) -> pd.DataFrame:
    """The run table without what no configuration decides."""
    return export(folder, sweep, ledger, provenance).drop(columns=list(runs.VOLATILE))


def alone(sweep: Sweep, record: Record, ledger: Ledger) -> bool:
    """Does the record say what its configuration gives, run by itself?"""
    quiet = sweep.model_copy(update={"law": sweep.law.model_copy(update={"seconds_per_trial": 0})})
    job = Job(
        sweep=quiet, vocab_size=plan.vocabulary(sweep), corpus=None,
        checkpoints=Place.of(Path()),
    )  # fmt: skip
    trial = space.trial(quiet, record.question, job.vocab_size)
    told = [(p.step, p.flops, p.loss) for p in ledger.reports(record.key)]
    expected = [(p.step, p.flops, p.loss) for p in contract.start(job, trial)]
    return bool(told) and told == expected[: len(told)]


class Cluster:
    """Three nodes on this machine; the head runs no trials."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self._nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0})
        self._workers = [self._nodes.add_node(num_cpus=1) for _ in range(2)]
        self.address = self._nodes.address

    def kill_node(self) -> None:
        """End one node without warning, and add a new one, as a spot market does."""
        self._nodes.remove_node(self._workers.pop(), allow_graceful=False)
        self._workers.append(self._nodes.add_node(num_cpus=1))

    def end(self) -> None:
        """End all of them."""
        self._nodes.shutdown()


if __name__ == "__main__":
    main()
