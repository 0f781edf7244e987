"""Runs that wait become runs that are answered. One runner a service; the ledger is its memory."""

import secrets
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from cluster.service import work
from cluster.service.records import Answer, Run
from cluster.service.state import State
from tuner.backends.contract import FinalError

LEASE = "runner"
"""Fact that names the runner in charge: one that a new one has replaced stops."""


class Executor(Protocol):
    """Where runs are computed."""

    look_every: float
    """Seconds between two looks for what has ended."""

    def has_room(self) -> bool:
        """Another run could start now."""
        ...

    def start(self, run: Run) -> None:
        """Begin a run."""
        ...

    def ended(self) -> Sequence[tuple[Run, Answer | BaseException]]:
        """What has ended since the last look, each once."""
        ...

    def stop(self, run: Run) -> None:
        """End a run that nobody wants any more; it need not be heard of again."""
        ...


class Runner:
    """Starts what waits, enters what is answered, tries again what died."""

    def __init__(self, state: State, executor: Executor) -> None:
        self.state = state
        self.executor = executor
        self.ledger = state.ledger()
        self.error: BaseException | None = None
        self._token = secrets.token_hex(8)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="runner", daemon=True)

    def start(self) -> None:
        """Take charge, in a thread of its own."""
        self.ledger.write_fact(LEASE, self._token)
        for run in self.ledger.everybodys("running"):
            self.ledger.wait_again(run)
        self._thread.start()

    def stop(self) -> None:
        """Start nothing more, and leave."""
        self._over.set()
        self._thread.join()
        self.ledger.close()

    def _loop(self) -> None:
        try:
            while not self._over.is_set() and self.ledger.fact(LEASE) == self._token:
                if not self.turn():
                    time.sleep(self.executor.look_every)
        except BaseException as error:
            self.error = error

    def turn(self) -> bool:
        """Do all there is to do; False if there was nothing."""
        busy = False
        for run, outcome in self.executor.ended():
            busy = True
            if isinstance(outcome, Answer):
                self.ledger.settle(run.configuration, outcome)
                self.state.checkpoint(run.configuration).unlink(missing_ok=True)
            else:
                self._died(run, outcome)
        for run in self.ledger.stopping():
            self.executor.stop(run)
            self.ledger.stopped(run, work.spent(self.state, run))
        while self.executor.has_room():
            run = self.ledger.next_queued()
            if run is None:
                break
            busy = True
            if self.ledger.begin(run):
                self.executor.start(self.ledger.run(run.id))
        return busy

    def _died(self, run: Run, error: BaseException) -> None:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[-1] if lines else 'no more is known'}"
        if isinstance(error, FinalError):
            self.ledger.refund(run, "refused", str(error))
        elif run.deaths + 1 >= self.state.settings.limits.attempts:
            self.ledger.refund(run, "failed", reason)
        else:
            self.ledger.wait_again(run, deaths=1)
