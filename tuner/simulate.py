"""A whole sweep in simulated time: the same engine, no Ray. For planning, tests and benchmarks."""

import heapq
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeAlias

from model.progress import Progress
from tuner import bundling, plan, throughput
from tuner.backends import several
from tuner.backends.contract import AttemptError, Job
from tuner.backends.several import Several
from tuner.bundle import Bundle
from tuner.config import Sweep
from tuner.engine import Engine, Nothing
from tuner.ledger import Ledger
from tuner.search import Studies
from tuner.storage import Place

Decider: TypeAlias = Callable[..., Engine]
"""Makes the engine that decides: `Engine` itself, or another design held against it."""


def simulate(sweep: Sweep, folder: Path, *, slots: int = 1) -> float:
    """Run a sweep on a backend that answers at once; return the simulated seconds it took.

    A slot spends the FLOP/s that the plan reckons with; decisions fall in the order of simulated
    time. A sweep that was interrupted in `folder` goes on.

    Args:
        sweep: its backend is `law` or `replay`.
        folder: gets ledger.db and study.db.
        slots: trials at once.

    Raises:
        ValueError: attempts are to hang; simulated time would stand still with them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.db")
    studies = Studies(sweep, folder / "study.db", plan.vocabulary(sweep))
    simulation = Simulation(sweep, ledger, studies, folder / "checkpoints", slots=slots)
    for _ in simulation:
        pass
    ledger.close()
    return simulation.now


def in_memory(sweep: Sweep, decider: Decider = Engine) -> "Simulation":
    """A sweep of one slot that leaves nothing on disk: for hundreds of them.

    Args:
        sweep: its backend is `law` or `replay`.
        decider: what decides.
    """
    ledger = Ledger(Path(":memory:"))
    studies = Studies(sweep, None, plan.vocabulary(sweep))
    return Simulation(sweep, ledger, studies, Path(os.devnull), decider=decider)


def _at_once(sweep: Sweep) -> Sweep:
    """The sweep without pretended durations: the clock here is not the wall's."""
    law = sweep.law.model_copy(update={"seconds_per_trial": 0.0, "flops_per_second": None})
    return sweep.model_copy(update={"law": law})


@dataclass(kw_only=True)
class _Work:
    """What a slot does."""

    bundle: Bundle
    runs: Several
    reports: Iterator[tuple[str, Progress]]
    spent: dict[str, int]
    """FLOPs that each trial had spent when it last reported."""


class Simulation:
    """Slots, each with trials whose next report is due at a known time."""

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        studies: Studies,
        checkpoints: Path,
        *,
        slots: int = 1,
        decider: Decider = Engine,
    ) -> None:
        if sweep.backend == "law" and sweep.law.faults.hangs:
            raise ValueError("law.faults.hangs is for real time only")
        self.job = Job(
            sweep=_at_once(sweep), vocab_size=studies.vocab_size, corpus=None,
            checkpoints=Place.of(checkpoints),
        )  # fmt: skip
        self.slots = slots
        self.now = 0.0
        self._speed = throughput.known(sweep).typical
        self._due: list[tuple[float, int, str, Progress, _Work]] = []
        self._tie = count()
        cap = plan.plan(sweep).cap
        self.engine = decider(sweep, ledger, studies, cap=cap, clock=lambda: self.now)

    def __iter__(self) -> Iterator[str]:
        """Go on until nothing is left, yielding the key of each trial when it is over."""
        self._fill()
        while self._due:
            self.now, _, key, progress, work = heapq.heappop(self._due)
            goes_on = self.engine.report(key, progress, {"device": work.runs.device})
            if not goes_on:
                work.runs.drop(key)
            self._schedule(work)
            if not goes_on:
                yield key
            self._fill()

    def _fill(self) -> None:
        """Start trials in free slots."""
        while len(self._due) < self.slots:
            bundle = bundling.ask(self.engine, self.job.slot, self.slots - len(self._due))
            if isinstance(bundle, Nothing):
                break
            self.engine.begin(*bundle.keys)
            runs = several.start(self.job, bundle)
            spent = dict.fromkeys(bundle.keys, 0)
            for key in bundle.keys:
                spent[key] = self.engine.ledger.paid(key)
                trial = self.engine.trial(self.engine.ledger.record(key))
                runs.restore(key, {"step": spent[key] // trial.flops_per_step})
            self._schedule(_Work(bundle=bundle, runs=runs, reports=iter(runs), spent=spent))

    def _schedule(self, work: _Work) -> None:
        """Let a slot work towards its next report, if there is one; trials in it take turns."""
        try:
            key, progress = next(work.reports, (None, None))
        except AttemptError as error:
            keys, reason = self.engine.running(work.bundle.keys), f"{type(error).__name__}: {error}"
            for key in keys:
                self.engine.fail(key, reason, error, others=len(keys) - 1)
            return
        if key is None or progress is None:
            return
        due = self.now + (progress.flops - work.spent[key]) / self._speed
        work.spent[key] = progress.flops
        heapq.heappush(self._due, (due, next(self._tie), key, progress, work))
