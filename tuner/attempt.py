"""One attempt at a trial: from its last checkpoint, if it has one, to its end. Needs no ray."""

import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from model.progress import Progress
from tuner.backends.contract import Job, Run
from tuner.backends.several import Apart, Several
from tuner.config import Sweep
from tuner.space import Trial
from tuner.storage import Place

ALONE = ""
"""Stands for the key where one trial has its process to itself."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint holds."""

    state: dict[str, Any] | None = None
    """Of the run; None at its start."""
    history: tuple[Progress, ...] = ()
    """What was reported until then."""
    start: int = 0
    """Step of a parent's trunk whose state it is, as long as nothing was reported."""

    @property
    def step(self) -> int:
        """From which an attempt would train."""
        return self.history[-1].step if self.history else self.start


def attempt(run: Run, checkpoint: Place, saved: Saved | None = None) -> Iterator[Progress]:
    """`attempts` for a trial that has its process to itself.

    Args:
        run: of the trial, at its start.
        checkpoint: the file that keeps its state between attempts.
        saved: what was read of it; left out, it is read.
    """
    saved = read(checkpoint) if saved is None else saved
    told = attempts(Apart({ALONE: run}), {ALONE: checkpoint}, {ALONE: saved})
    return (progress for _, progress in told)


def attempts(
    runs: Several,
    checkpoints: Mapping[str, Place],
    saved: Mapping[str, Saved],
    trunks: Mapping[tuple[str, int], Place] = MappingProxyType({}),
) -> Iterator[tuple[str, Progress]]:
    """Yield every report of each trial of a process, those of earlier attempts first, with its key.

    A trial's state is saved before its report is yielded, with all that was yielded: whoever dies
    between the two repeats the report, not the training. Of several a trial leaves whose checkpoint
    is gone when its report was heard: so the driver says that it is over, to whichever process has
    it. One alone is stopped by Ray.

    Args:
        runs: of the trials, each at its start.
        checkpoints: the file that keeps each trial's state between attempts.
        saved: what was read of each.
        trunks: where the state at a trial's step is kept besides, for longer trials to go on from.
    """
    for key, found in saved.items():
        if found.state is not None:
            runs.restore(key, found.state)
    for key, found in saved.items():
        for progress in found.history:
            yield key, progress
        if found.history and _is_over(checkpoints, key):
            runs.drop(key)
    history = {key: list(found.history) for key, found in saved.items()}
    for key, progress in runs:
        history[key].append(progress)
        content = pickle.dumps((runs.state(key), history[key]))
        if (trunk := trunks.get((key, progress.step))) is not None:
            trunk.write(content)
        checkpoints[key].write(content)
        yield key, progress
        if _is_over(checkpoints, key):
            runs.drop(key)


def _is_over(checkpoints: Mapping[str, Place], key: str) -> bool:
    """Has the driver removed the checkpoint of one trial of several? In doubt, no."""
    try:
        return len(checkpoints) > 1 and not checkpoints[key].exists()
    except OSError:
        return False


def checkpoint_of(job: Job, key: str) -> Place:
    """Where the trial `key` keeps its state."""
    return job.checkpoints / f"{key}.pickle"


def trunk_of(job: Job, key: str) -> Place:
    """Where the trial `key` keeps the state in which its cooldown began."""
    return job.checkpoints / f"{key}.trunk.pickle"


def kept(sweep: Sweep, trials: Iterable[Trial]) -> Iterator[tuple[str, int]]:
    """The trials whose trunks a larger budget may go on from, each with the step of its fork."""
    for trial in trials:
        if trial.fork is not None and trial.question.budget in sweep.budgets[:-1]:
            yield trial.key, trial.fork.at


def begun(job: Job, trial: Trial) -> Saved:
    """What an attempt goes on from: its checkpoint, or else its parent's trunk, if there is one."""
    saved = read(checkpoint_of(job, trial.key))
    if saved.history or not trial.start:
        return saved
    trunk = read(trunk_of(job, trial.question.cell.parent))
    return Saved(state=trunk.state, start=trial.start) if trunk.step == trial.start else Saved()


def read(checkpoint: Place) -> Saved:
    """What a checkpoint holds: nothing if there is none, or none that can be read.

    A trial that starts afresh costs its training; one that no attempt can start is lost. So
    whatever unpickling raises is told, and no more: a power cut, a full disk, another torch.
    """
    content = checkpoint.read()
    if content is None:
        return Saved()
    try:
        state, history = pickle.loads(content)
        saved = Saved(state=state, history=tuple(history))
        assert isinstance(saved.step, int)
    except Exception as error:  # it may hold anything
        told = f"{type(error).__name__}: {error}"
        print(f"isoflop: {checkpoint}: broken ({told}); starting afresh", file=sys.stderr)
        return Saved()
    return saved
