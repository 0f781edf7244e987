"""The trials of a bundle, run side by side in one process. Needs no ray."""

import heapq
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Protocol

from model.progress import Progress
from tuner import space
from tuner.backends import contract
from tuner.backends.contract import Job, Run
from tuner.bundle import Bundle


class Several(Protocol):
    """Trials at work in one process, by their keys. Each reports what it would alone."""

    def __iter__(self) -> Iterator[tuple[str, Progress]]:
        """Train on from where each stands, yielding whose report it is; until none is left."""
        ...

    def state(self, key: str) -> dict[str, Any]:
        """What `restore` needs to go on with that trial bit for bit; asked between yields."""
        ...

    def restore(self, key: str, state: dict[str, Any]) -> None:
        """Let a trial stand where the run stood that gave `state`; before the first yield."""
        ...

    def drop(self, key: str) -> None:
        """Spend nothing more on a trial, if it is still at work; between yields."""
        ...

    @property
    def device(self) -> str:
        """What they run on."""
        ...


class Apart:
    """Runs that share nothing but the process: next is the one that has spent least."""

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self.runs = runs
        self._dropped: set[str] = set()

    def __iter__(self) -> Iterator[tuple[str, Progress]]:
        """Run in turn."""
        ways = {key: iter(run) for key, run in self.runs.items()}
        turn = count()
        due = [(0, next(turn), key) for key in ways]
        while due:
            _, _, key = heapq.heappop(due)
            progress = None if key in self._dropped else next(ways[key], None)
            if progress is not None:
                yield key, progress
                heapq.heappush(due, (progress.flops, next(turn), key))

    def state(self, key: str) -> dict[str, Any]:
        """As the run says."""
        return self.runs[key].state()

    def restore(self, key: str, state: dict[str, Any]) -> None:
        """Likewise."""
        self.runs[key].restore(state)

    def drop(self, key: str) -> None:
        """Give it no turn."""
        self._dropped.add(key)

    @property
    def device(self) -> str:
        """That of all."""
        return next(iter(self.runs.values())).device


def start(job: Job, bundle: Bundle) -> Several:
    """The runs of a bundle's trials, each at its start."""
    if len(bundle.members) > 1 and job.sweep.backend == "train":
        from tuner.backends.stacked import StackedRuns  # noqa: PLC0415  needs torch

        return StackedRuns(job, bundle)
    runs = {}
    for member in bundle.members:
        trial = space.trial(job.sweep, member.question, job.vocab_size)
        runs[member.key] = contract.start(
            job, trial, attempt=member.attempt, micro_batch_size=member.micro_batch_size
        )
    return Apart(runs)
