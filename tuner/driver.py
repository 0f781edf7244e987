"""The engine in Ray's terms: a searcher, a scheduler and a callback that only pass on."""

import math
import pickle
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from model.memory import TooLargeError
from tuner import bundling, nodes, space
from tuner.attempt import checkpoint_of, trunk_of
from tuner.backends.contract import Job, NodeLostError, WorkerLostError
from tuner.bundle import Bundle
from tuner.engine import Engine, Nothing
from tuner.nodes import Losses
from tuner.storage import Place
from tuner.trainable import reported
from tuner.watch import Unsaved

LOOK_EVERY = 1.0
"""Seconds between two looks for trials that hang."""
LEAVE_AFTER = 10.0
"""Seconds that the end of a sweep waits, at most, for workers of stopped trials to be gone."""


class Driver(Unsaved):
    """The engine in Ray's terms. A Ray trial carries a bundle of the engine's trials; retries are
    the engine's, so one of those may be in several Ray trials, one after the other."""

    def __init__(
        self, engine: Engine, job: Job, *, at_most: int | None = None, room: int = 1
    ) -> None:
        """Bind an engine to Ray.

        Args:
            engine: that decides.
            job: what its trials share.
            at_most: Ray trials handed out at once; None: as many as there is room for, and one
                more.
            room: Ray trials that run at once, as far as is known where `at_most` is None.
        """
        self.engine = engine
        self.job = job
        self._at_most = math.inf if at_most is None else at_most
        self._slots = room if at_most is None else at_most
        self.bundles: dict[str, Bundle] = {}
        """What Ray's trials carry, by their ids."""
        self.together = False
        """A trial on several devices was handed out."""
        self.searcher = _Searcher(self)
        self.scheduler = _Scheduler(self)
        self.lives = _Lives(self)

    def devices(self, trial: space.Trial) -> int:
        """How many train it together; one, to say so, where it fits on no number of them."""
        if self.engine.sweep.backend != "train":
            return 1
        resources = self.engine.sweep.resources
        try:
            return self.job.slot.split(trial.shape, trial.batch_size, resources).devices
        except TooLargeError:
            return 1

    @property
    def is_full(self) -> bool:
        """As many Ray trials are handed out as may be at once."""
        return self._out >= self._at_most

    @property
    def free(self) -> int:
        """Slots that wait for a bundle, at least one."""
        return max(1, self._slots - self._out)

    @property
    def _out(self) -> int:
        """Ray trials of which something runs."""
        running = {record.key for record in self.engine.ledger.records("running")}
        return sum(not running.isdisjoint(bundle.keys) for bundle in self.bundles.values())

    def tidy(self, keys: Iterable[str]) -> None:
        """Remove the trunks of trials that no other will go on from."""
        for key in keys:
            _clear(trunk_of(self.job, key))

    def goes_on(self, bundle: Bundle) -> bool:
        """Does any trial of a bundle run?"""
        return any(self.engine.ledger.record(key).status == "running" for key in bundle.keys)


class _Searcher(Searcher):
    """Asks the engine for the next trial."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(metric="loss", mode="min")
        self.driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's config; None to wait; FINISHED at the end."""
        if self.driver.is_full:
            return None
        driver = self.driver
        bundle = bundling.ask(driver.engine, driver.job.slot, driver.free)
        if bundle is Nothing.LEFT:
            return cast("dict[str, Any]", Searcher.FINISHED)  # Ray's sentinel is a string
        if isinstance(bundle, Nothing):
            return None
        driver.bundles[trial_id] = bundle
        trial = driver.engine.trial(driver.engine.ledger.record(bundle.keys[0]))
        devices = driver.devices(trial)
        driver.together |= devices > 1
        return {
            "key": trial.key,
            "bundle": bundle.to_dict(),
            "devices": devices,
            **_shown(trial),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the scheduler has heard it already."""

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the state is in the ledger."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to read."""


def _shown(trial: space.Trial) -> dict[str, float | int]:
    return {
        "d_model": trial.shape.d_model,
        "num_layers": trial.shape.num_layers,
        "params": trial.shape.params,
        "batch_size": trial.batch_size,
        "weight_decay": trial.weight_decay,
    }


class _Scheduler(FIFOScheduler):
    """Tells the engine what trials report, and stops those that do not go on."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver
        self._waiting: list[RayTrial] = []

    def on_trial_add(self, tune_controller: Any, trial: RayTrial) -> None:
        """A trial waits for a worker."""
        self._waiting.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        """Which trial gets a worker that is free: the newest.

        An older one has a worker that starts. Given another, Ray would end that one, and where
        trials are shorter than a start no second worker would ever come up.
        """
        self._waiting = [trial for trial in self._waiting if trial.status == RayTrial.PENDING]
        return self._waiting[-1] if self._waiting else None

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """Enter an evaluation; stop the trial if the engine says so."""
        progress = reported(result)
        device = {name: result[name] for name in ("device", "peak_flops")}
        goes_on = self.driver.engine.report(result["key"], progress, device, began=result["began"])
        if goes_on:
            return self.CONTINUE
        if self._is_kept(trial, result["key"]):
            return self.STOP
        self.driver.engine.forgo(result["key"])
        cleared = _clear(checkpoint_of(self.driver.job, result["key"]))
        self.driver.tidy(self.driver.engine.agenda.unwanted(result["key"]))
        if progress.final:
            return self.CONTINUE  # its function returns by itself, its actor is used again at once
        bundle = self.driver.bundles[trial.trial_id]
        if cleared and self.driver.goes_on(bundle):
            return self.CONTINUE  # one that carries others finds the checkpoint gone
        self._release(bundle)
        return self.STOP

    def _is_kept(self, trial: RayTrial, key: str) -> bool:
        """Does the checkpoint of one that is over stay, for a higher cap to let it go on from?

        Of several in one process that of the last: others find theirs gone, and compute no more.
        """
        is_cut = self.driver.engine.ledger.record(key).is_cut
        return is_cut and not self.driver.goes_on(self.driver.bundles[trial.trial_id])

    def _release(self, bundle: Bundle) -> None:
        """Hand back those that end with one that would not hear that it is over."""
        reason = "its process was ended: another's checkpoint could not be removed"
        for key in self.driver.engine.running(bundle.keys):
            self.driver.engine.fail(key, reason, NodeLostError(reason))


class _Lives(Callback):
    """Tells the engine when trials really start, ends silent ones, and hands back the dead."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._running: dict[str, RayTrial] = {}
        self._silent: dict[str, float] = {}
        self._looked = 0.0
        self._losses = Losses()
        self._doubtful: list[tuple[str, float, str]] = []

    def on_trial_start(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Let its time begin: Ray asks for a trial before there is a slot for it."""
        bundle = self.driver.bundles[trial.trial_id]
        self._running |= dict.fromkeys(bundle.keys, trial)
        self.driver.engine.begin(*bundle.keys)

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """End what has been silent for too long; Ray will call that an error of the trial."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        self.driver.engine.live()
        if self.driver.together:
            nodes.reclaim()
        self._losses.look()
        self._judge()
        for key, seconds in self.driver.engine.silent().items():
            trial = self._running.get(key)
            actor = None if trial is None else trial.temporary_state.ray_actor
            if trial is not None and trial.trial_id not in self._silent and actor is not None:
                self._silent[trial.trial_id] = seconds
                ray.kill(actor)

    def on_trial_complete(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Nothing more will be asked of it; what it did not end, another attempt will."""
        for key in self._forget(trial):
            self.driver.engine.fail(key, "its process ended without its last report")

    def _forget(self, trial: RayTrial) -> tuple[str, ...]:
        """Let go of what Ray keeps of every trial to its sweep's end; the keys of what it carried.

        Its running statistics of each metric are most of that, and nothing here reads them.
        """
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
        bundle = self.driver.bundles.pop(trial.trial_id, None)
        if bundle is None:  # another callback failed, and Ray calls this the trial's error, too
            return ()
        for key in bundle.keys:
            self._running.pop(key, None)
        return bundle.keys

    def on_trial_error(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Let what still ran wait for another attempt."""
        seconds, error = self._silent.pop(trial.trial_id, None), _error(trial)
        reason = _reason(error) if seconds is None else f"it hung: no report for {seconds:.0f} s"
        cause = error.cause if isinstance(error, RayTaskError) else None
        unexplained = cause is None or isinstance(cause, WorkerLostError)
        in_doubt = unexplained and seconds is None and self._losses.possible
        keys = self.driver.engine.running(self._forget(trial))
        for key in keys:
            if in_doubt:
                self._doubtful.append((key, time.monotonic(), reason))
                cause = NodeLostError(reason)
            self.driver.engine.fail(key, reason, cause, others=len(keys) - 1)
        self.driver.tidy(self.driver.engine.agenda.unwanted(*keys))

    def on_experiment_end(self, trials: list[RayTrial], **info: Any) -> None:
        """Leave nothing taken: the last that was stopped may still be dying; and no trunk, where
        nothing is left to do."""
        self.driver.tidy(self.driver.engine.agenda.left())
        patience = time.monotonic() + LEAVE_AFTER
        while self.driver.together and nodes.reclaim() and time.monotonic() < patience:
            time.sleep(0.1)

    def _judge(self) -> None:
        """Blame trials for deaths that no machine's loss explains, each of them."""
        for death in self._doubtful.copy():
            key, died, reason = death
            explained = self._losses.explain(died)
            if explained is not None:
                self._doubtful.remove(death)
            if explained is False:
                self.driver.engine.blame(key, reason)


def _clear(checkpoint: Place) -> bool:
    """Remove what no attempt needs any more; where that fails it stays, and the sweep goes on."""
    try:
        checkpoint.remove()
    except OSError as error:
        print(f"isoflop: {checkpoint}: {error}; it stays there", file=sys.stderr)
        return False
    return True


def _error(trial: RayTrial) -> object:
    """The exception that ended a trial, if one is known."""
    # Not trial.get_error: it looks where Ray's files arrive only later.
    written = Path(trial.pickled_error_file or "")
    return pickle.loads(written.read_bytes()) if written.is_file() else None


def _reason(error: object) -> str:
    """Why a trial died: the exception it raised, or that its process is gone."""
    if not isinstance(error, RayTaskError):
        return "its worker died"
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
