"""A whole sweep in simulated time: the same engine, no Ray. For planning, tests and benchmarks."""

import heapq
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from model.progress import Progress
from tuner import plan
from tuner.backends import contract
from tuner.backends.contract import AttemptError, Job, Run
from tuner.config import Sweep
from tuner.engine import Engine, Nothing
from tuner.ledger import Ledger
from tuner.search import Studies


def simulate(sweep: Sweep, folder: Path, *, slots: int = 1) -> float:
    """Run a sweep on a backend that answers at once; return the simulated seconds it took.

    A slot spends `resources.flops_per_second`; decisions fall in the order of simulated time. A
    sweep that was interrupted in `folder` goes on.

    Args:
        sweep: its backend is `law` or `replay`.
        folder: gets ledger.db and study.db.
        slots: trials at once.

    Raises:
        ValueError: attempts are to hang; simulated time would stand still with them.
    """
    if sweep.backend == "law" and sweep.law.faults.hangs:
        raise ValueError("law.faults.hangs is for real time only")
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.db")
    vocab_size = plan.vocabulary(sweep)
    studies = Studies(sweep, folder / "study.db", vocab_size)
    job = Job(
        sweep=_at_once(sweep), vocab_size=vocab_size, corpus=None,
        checkpoints=folder / "checkpoints", peak_flops=0.0,
    )  # fmt: skip
    clock = _Clock(job, slots)
    cap = plan.plan(sweep).cap
    clock.run(Engine(sweep, ledger, studies, cap=cap, clock=lambda: clock.now))
    ledger.close()
    return clock.now


def _at_once(sweep: Sweep) -> Sweep:
    """The sweep without pretended durations: the clock here is not the wall's."""
    law = sweep.law.model_copy(update={"seconds_per_trial": 0.0, "flops_per_second": None})
    return sweep.model_copy(update={"law": law})


class _Clock:
    """Slots, each with a trial whose next report is due at a known time."""

    engine: Engine

    def __init__(self, job: Job, slots: int) -> None:
        self.job = job
        self.slots = slots
        self.now = 0.0
        self._due: list[tuple[float, int, str, Progress, Run, Iterator[Progress]]] = []
        self._tie = count()

    def run(self, engine: Engine) -> None:
        """Until nothing is left."""
        self.engine = engine
        self._fill()
        while self._due:
            self.now, _, key, progress, run, rest = heapq.heappop(self._due)
            if self.engine.report(key, progress, {"device": run.device}):
                self._schedule(key, progress.flops, run, rest)
            self._fill()

    def _fill(self) -> None:
        """Start trials in free slots."""
        while len(self._due) < self.slots:
            trial = self.engine.ask()
            if isinstance(trial, Nothing):
                break
            self.engine.begin(trial.key)
            record = self.engine.ledger.record(trial.key)
            run = contract.start(
                self.job, trial, attempt=record.attempts, micro_batch_size=record.micro_batch_size
            )
            last = self.engine.ledger.last(trial.key)
            if last is not None:
                run.restore({"step": last.step})
            self._schedule(trial.key, last.flops if last else 0, run, iter(run))

    def _schedule(self, key: str, spent: int, run: Run, rest: Iterator[Progress]) -> None:
        try:
            progress = next(rest)
        except AttemptError as error:
            self.engine.fail(key, f"{type(error).__name__}: {error}", error)
            return
        due = self.now + (progress.flops - spent) / self.job.sweep.resources.flops_per_second
        heapq.heappush(self._due, (due, next(self._tie), key, progress, run, rest))
