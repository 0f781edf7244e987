"""The contract every backend keeps, and what a worker is told besides the trial. Needs no ray."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from model.progress import Progress
from tuner.config import Sweep
from tuner.slot import Slot
from tuner.space import Trial
from tuner.storage import Place


@dataclass(frozen=True, kw_only=True)
class Published:
    """A corpus where every node can fetch it."""

    place: Place
    """Its folder."""
    fingerprint: str
    """Of every token and the tokenizer: what arrives is held against it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all trials of a sweep share: settled once, before the first."""

    sweep: Sweep
    vocab_size: int
    """Distinct tokens."""
    corpus: Path | None
    """Folder of the prepared corpus; None where the backend reads none."""
    published: Published | None = None
    """From where a node takes its own copy of the corpus; None: all read the one folder."""
    checkpoints: Place
    """Where trials keep their state between attempts; every worker sees it."""
    slot: Slot = field(default_factory=Slot)
    """What each of them runs on, and how it computes."""


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


class FinalError(AttemptError):
    """An attempt that ended as any other would: there is none."""


class NodeLostError(AttemptError):
    """An attempt whose machine was taken away: no fault of the trial's, however often."""


class WorkerLostError(AttemptError):
    """An attempt on several devices that broke off; whose fault that was is for others to judge."""


class OutOfMemoryError(AttemptError):
    """An attempt whose micro-batch did not fit; one at half of it may."""

    def __init__(self, micro_batch_size: int) -> None:
        super().__init__(micro_batch_size)
        self.micro_batch_size = micro_batch_size
        """Sequences that were too many at once."""

    @override
    def __str__(self) -> str:
        return f"out of memory at {self.micro_batch_size} sequences at once"


def start(job: Job, trial: Trial, *, attempt: int = 1, micro_batch_size: int | None = None) -> Run:
    """A run of `trial` by the sweep's backend.

    Args:
        job: what all trials of the sweep share.
        trial: what to run.
        attempt: counts its starts from 1.
        micro_batch_size: sequences computed at once, at most, where the backend trains; None leaves
            it to the memory model. The row is the same but for rounding.
    """
    # Imported here: a sweep on a law or a record needs no torch.
    if job.sweep.backend == "law":
        from tuner.backends.law import LawRun  # noqa: PLC0415

        return LawRun(job, trial, attempt, micro_batch_size)
    if job.sweep.backend == "replay":
        from tuner.backends.replay import ReplayRun  # noqa: PLC0415

        return ReplayRun(job, trial)
    if job.sweep.backend == "api":
        from tuner.backends.api import ApiRun  # noqa: PLC0415

        return ApiRun(job, trial)
    from tuner.backends.train import TrainRun  # noqa: PLC0415

    return TrainRun(job, trial, micro_batch_size=micro_batch_size)
