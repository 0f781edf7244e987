"""Threads: where laws and records answer runs. Trainings are `tasks.py`'s."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from cluster.service import work
from cluster.service.pulse import Beat
from cluster.service.records import Answer, Run
from cluster.service.state import State
from cluster.service.watchdog import Watchdog
from tuner.slot import Slot

AT_ONCE = 64
"""Runs at once, where nothing else bounds them."""
LOOK_EVERY = 1.0
"""Seconds between two looks for runs that hang."""
Outcome = tuple[Run, Answer | BaseException]


@dataclass(kw_only=True)
class _Begun:
    """A run in its thread."""

    run: Run
    sign: Beat = field(default_factory=Beat)
    future: Future[Answer] = field(default_factory=Future)
    wanted: bool = True
    """Somebody is to hear how it ends."""


class Threads:
    """In this process: for laws and records, which need no resources."""

    look_every = 0.01

    def __init__(self, state: State, at_once: int = AT_ONCE) -> None:
        self.state = state
        self.at_once = at_once
        self._runs: dict[str, _Begun] = {}
        self._watchdog = Watchdog(state, lambda run: self._runs[run.id].sign)
        self._looked = 0.0

    def has_room(self) -> bool:
        """Another run could start now."""
        return len(self._runs) < self.at_once

    def start(self, run: Run) -> None:
        """Begin a run."""
        begun = self._runs[run.id] = _Begun(run=run)
        self._watchdog.begin(run)
        # Not a pool's: one that hangs would keep its place there, and the process from its end.
        threading.Thread(target=self._answer, args=(begun,), name=run.id, daemon=True).start()

    def _answer(self, begun: _Begun) -> None:
        asked, attempts = begun.run.configuration, begun.run.attempts
        try:
            answer = work.answer(self.state, Slot(), asked, attempts, begun.sign)
        except BaseException as error:
            begun.future.set_exception(error)
        else:
            begun.future.set_result(answer)

    def ended(self) -> Sequence[Outcome]:
        """What has ended since the last look."""
        hanging = self._hanging()
        over = [self._runs.pop(id) for id, begun in list(self._runs.items()) if begun.future.done()]
        return hanging + [
            (begun.run, begun.future.exception() or begun.future.result())
            for begun in over
            if begun.wanted
        ]

    def _hanging(self) -> list[Outcome]:
        """Those that have ceased to report: their threads cannot be ended, and are left alone."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return []
        self._looked = time.monotonic()
        hanging = self._watchdog.hanging(begun.run for begun in self._runs.values())
        left = [(self._runs.pop(run.id), error) for run, error in hanging]
        return [(begun.run, error) for begun, error in left if begun.wanted]

    def stop(self, run: Run) -> None:
        """Forget a run: a thread cannot be ended, and keeps its place until it ends."""
        if run.id in self._runs:
            self._runs[run.id].wanted = False
