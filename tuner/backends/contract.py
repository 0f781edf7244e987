"""The contract every backend keeps, and what a worker is told besides the trial. Needs no ray."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from model.progress import Progress
from tuner.config import Sweep
from tuner.space import Trial


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all trials of a sweep share: settled once, before the first."""

    sweep: Sweep
    vocab_size: int
    """Distinct tokens."""
    corpus: Path | None
    """Folder of the prepared corpus; None where the backend reads none."""
    checkpoints: Path
    """Where trials keep their state between attempts; every worker sees it."""
    peak_flops: float
    """Of one slot, FLOP/s, as probed before the first trial; 0 if unknown."""


class Run(Protocol):
    """One trial at work. It yields at each of `trial.report_steps`, the last progress `final`."""

    def __iter__(self) -> Iterator[Progress]:
        """Train on from where the run stands."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on bit for bit; asked between yields."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where the run stood that gave `state`."""
        ...

    @property
    def device(self) -> str:
        """What it runs on."""
        ...


class AttemptError(Exception):
    """An attempt that cannot go on; `Engine.fail` decides whether there is another."""


def start(job: Job, trial: Trial, *, attempt: int = 1) -> Run:
    """A run of `trial` by the sweep's backend; `attempt` counts its starts from 1."""
    # Imported here: a sweep on a law or a record needs no torch.
    if job.sweep.backend == "law":
        from tuner.backends.law import LawRun  # noqa: PLC0415

        return LawRun(job, trial, attempt)
    if job.sweep.backend == "replay":
        from tuner.backends.replay import ReplayRun  # noqa: PLC0415

        return ReplayRun(job, trial)
    from tuner.backends.train import TrainRun  # noqa: PLC0415

    return TrainRun(job, trial)
