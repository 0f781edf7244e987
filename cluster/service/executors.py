"""Threads: where laws and records answer runs. Trainings are `tasks.py`'s."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cluster.service import work
from cluster.service.records import Answer, Run
from cluster.service.state import State
from tuner.slot import Slot

AT_ONCE = 64
"""Runs at once, where nothing else bounds them."""
Outcome = tuple[Run, Answer | BaseException]


class Threads:
    """In this process: for laws and records, which need no resources."""

    look_every = 0.01

    def __init__(self, state: State, at_once: int = AT_ONCE) -> None:
        self.state = state
        self.at_once = at_once
        self._pool = ThreadPoolExecutor(at_once)
        self._runs: dict[str, tuple[Run, Future[Answer]]] = {}

    def has_room(self) -> bool:
        """Another run could start now."""
        return len(self._runs) < self.at_once

    def start(self, run: Run) -> None:
        """Begin a run."""
        future = self._pool.submit(work.answer, self.state, Slot(), run.configuration, run.attempts)
        self._runs[run.id] = run, future

    def ended(self) -> Sequence[Outcome]:
        """What has ended since the last look."""
        over = [self._runs.pop(id) for id, (_, future) in list(self._runs.items()) if future.done()]
        return [(run, future.exception() or future.result()) for run, future in over]

    def stop(self, run: Run) -> None:
        """Forget a run: a thread cannot be ended, and its answer costs nothing."""
        self._runs.pop(run.id, None)
