"""The trials of a bundle as one batched model (`model.stack`). Needs torch."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from model.progress import Progress
from model.stack import Stack
from tuner import space
from tuner.backends.contract import Job, OutOfMemoryError
from tuner.backends.train import TrainRun
from tuner.bundle import Bundle


class StackedRuns:
    """Trainings in step: every kernel does the work of all. See `backends.several.Several`."""

    def __init__(self, job: Job, bundle: Bundle) -> None:
        self.runs = {
            member.key: TrainRun(job, space.trial(job.sweep, member.question, job.vocab_size))
            for member in bundle.members
        }
        self._keys = list(self.runs)
        self._read_once(bundle)
        self._stack = Stack([run.training for run in self.runs.values()])

    def __iter__(self) -> Iterator[tuple[str, Progress]]:
        """Train; those that come to a report at once yield one after the other.

        Raises:
            OutOfMemoryError: the batches are too large.
        """
        first = next(iter(self.runs.values()))
        try:
            for found in self._stack.run():
                for place, progress in found.items():
                    yield self._keys[place], progress
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(first.micro_batch_size) from error

    def state(self, key: str) -> dict[str, Any]:
        """Weights, moments and place."""
        return self.runs[key].state()

    def restore(self, key: str, state: dict[str, Any]) -> None:
        """Take them up."""
        self.runs[key].restore(state)

    def drop(self, key: str) -> None:
        """Compute nothing more for it."""
        place = self._keys.index(key)
        if place in self._stack.members:
            self._stack.drop(place)

    @property
    def device(self) -> str:
        """The GPU's name, or the processor's architecture."""
        return next(iter(self.runs.values())).device

    def _read_once(self, bundle: Bundle) -> None:
        """Let trainings of one seed, whose data is the same, share what is read of it."""
        shared = {
            member.question.seed: lru_cache(maxsize=2)(self.runs[member.key].training.batches)
            for member in bundle.members
        }
        for member in bundle.members:
            self.runs[member.key].training.batches = shared[member.question.seed]
