"""Runs that wait become runs that are answered. One runner a service; the ledger is its memory."""

import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from cluster.service import work
from cluster.service.records import Answer, Run
from cluster.service.state import State
from cluster.service.work import DivergedError
from tuner.backends.contract import FinalError, NodeLostError

LEASE = "runner"
"""Fact that names the runner in charge: one that a new one has replaced stops."""


BEAT_EVERY = 1.0
"""Seconds between two signs of life."""
TIDY_EVERY = 3600.0
"""Seconds between two looks for what nobody came back for."""
KEPT = 7 * 24 * 3600.0
"""Seconds for which the checkpoint of a run that was given up is kept: asked again it goes on."""


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
        self._next_beat = self._next_tidying = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="runner", daemon=True)

    def start(self) -> None:
        """Take charge, in a thread of its own."""
        self.ledger.write_fact(LEASE, self._token)
        for run in self.ledger.everybodys("running"):
            self.ledger.wait_again(run)
        self.state.runner.beat()
        self._thread.start()

    def stop(self) -> None:
        """Start nothing more, and leave."""
        self._over.set()
        self._thread.join()
        self.ledger.close()

    def _loop(self) -> None:
        try:
            while not self._over.is_set() and self.ledger.fact(LEASE) == self._token:
                self._now_and_then()
                if not self.turn():
                    time.sleep(self.executor.look_every)
        except BaseException as error:
            self.error = error

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self.state.runner.beat()
            self._next_beat = now + BEAT_EVERY
        if now >= self._next_tidying:
            self.tidy()
            self._next_tidying = now + TIDY_EVERY

    def turn(self) -> bool:
        """Do all there is to do; False if there was nothing."""
        busy = False
        for run, outcome in self.executor.ended():
            busy = True
            if isinstance(outcome, Answer):
                self.ledger.settle(run.configuration, outcome)
                self.state.forget(run.configuration)
            else:
                self._died(run, outcome)
        for run in self.ledger.stopping():
            self.executor.stop(run)
            self.ledger.stopped(run, self._spent(run))
        while self.executor.has_room():
            run = self.ledger.next_queued()
            if run is None:
                break
            busy = True
            if self.ledger.begin(run):
                self.executor.start(self.ledger.run(run.id))
        return busy

    def _spent(self, run: Run) -> int:
        """FLOP that a canceled run's configuration has taken; all, if it was trained meanwhile."""
        if self.ledger.answer(run.configuration) is not None:
            return run.configuration.train_flops
        return work.spent(self.state, run)

    def tidy(self) -> None:
        """Remove what trainings left that were given up, and that nobody came back for."""
        alive = {r.configuration.digest for r in self.ledger.everybodys("queued", "running")}
        for path in self.state.checkpoints.glob("*.*"):
            if path.name.partition(".")[0] in alive:
                continue
            with suppress(OSError):  # gone by now, or it cannot be: the next time tries again
                if time.time() - path.stat().st_mtime > KEPT:
                    path.unlink()

    def _died(self, run: Run, error: BaseException) -> None:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[-1] if lines else 'no more is known'}"
        if isinstance(error, DivergedError):
            self.ledger.diverge(run.configuration, error.reason, error.spent)
            self.state.forget(run.configuration)
        elif isinstance(error, NodeLostError):
            self.ledger.wait_again(run)
        elif isinstance(error, FinalError):
            self.ledger.refund(run, "refused", str(error))
        elif run.deaths + 1 >= self.state.settings.limits.attempts:
            self.ledger.refund(run, "failed", reason)
        else:
            self.ledger.wait_again(run, deaths=1)
