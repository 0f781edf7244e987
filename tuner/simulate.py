"""A whole sweep in simulated time: the same engine, no Ray. For planning, tests and benchmarks."""

import heapq
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from model.progress import Progress
from tuner import plan
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.config import Sweep
from tuner.engine import Engine, Nothing
from tuner.ledger import Ledger
from tuner.search import Studies


def simulate(sweep: Sweep, folder: Path, *, slots: int = 1) -> float:
    """Run a sweep on a backend that answers at once; return the simulated seconds it took.

    A slot spends `resources.flops_per_second`; decisions fall in the order of simulated time. A
    sweep that was interrupted in `folder` goes on.

    Args:
        sweep: its backend is `law`.
        folder: gets ledger.db and study.db.
        slots: trials at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.db")
    vocab_size = plan.vocabulary(sweep)
    studies = Studies(sweep, folder / "study.db", vocab_size)
    engine = Engine(sweep, ledger, studies, cap=plan.plan(sweep).cap)
    job = Job(
        sweep=sweep, vocab_size=vocab_size, corpus=None,
        checkpoints=folder / "checkpoints", peak_flops=0.0,
    )  # fmt: skip
    seconds = _Clock(engine, job, slots).run()
    ledger.close()
    return seconds


class _Clock:
    """Slots, each with a trial whose next report is due at a known time."""

    def __init__(self, engine: Engine, job: Job, slots: int) -> None:
        self.engine = engine
        self.job = job
        self.slots = slots
        self.now = 0.0
        self._due: list[tuple[float, int, str, Progress, Iterator[Progress]]] = []
        self._tie = count()

    def run(self) -> float:
        """Until nothing is left."""
        while self._fill() or self._due:
            self.now, _, key, progress, rest = heapq.heappop(self._due)
            if self.engine.report(key, progress, {"device": "simulated"}):
                self._schedule(key, progress.flops, rest)
        return self.now

    def _fill(self) -> bool:
        """Start trials in free slots; False if none could be started."""
        started = False
        while len(self._due) < self.slots:
            trial = self.engine.ask()
            if isinstance(trial, Nothing):
                break
            run = contract.start(self.job, trial)
            last = self.engine.ledger.last(trial.key)
            if last is not None:
                run.restore({"step": last.step})
            self._schedule(trial.key, last.flops if last else 0, iter(run))
            started = True
        return started

    def _schedule(self, key: str, spent: int, rest: Iterator[Progress]) -> None:
        progress = next(rest)
        due = self.now + (progress.flops - spent) / self.job.sweep.resources.flops_per_second
        heapq.heappush(self._due, (due, next(self._tie), key, progress, rest))
