"""Ray tasks: where runs are trained, on as many machines as there are."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from cluster.service import work
from cluster.service.executors import AT_ONCE, Outcome
from cluster.service.pulse import Pulse
from cluster.service.records import Answer, Run
from cluster.service.state import State
from cluster.service.watchdog import Watchdog
from tuner.backends.contract import NodeLostError
from tuner.nodes import Losses
from tuner.slot import Slot

SLOT = "slot"
"""Fact that says how runs are computed."""
LOOK_EVERY = 1.0
"""Seconds between two looks for trainings that hang and machines that are gone."""


class RayTasks:
    """On a Ray cluster, as many at once as its resources hold."""

    look_every = 0.05

    def __init__(self, state: State) -> None:
        resources = state.settings.resources
        where = {"num_cpus": resources.cpus_per_trial, "num_gpus": resources.gpus_per_trial}
        self.state = state
        self._shared = ray.put(state)
        self.resources = resources
        self.slot = _slot(state, lambda: ray.get(ray.remote(**where)(_found).remote(state)))
        self._task = ray.remote(max_retries=0, **where)(work.answer)
        self._runs: dict[ObjectRef[Answer], Run] = {}
        self._watchdog = Watchdog(state, self._pulse)
        self._losses = Losses()
        self._losses.look()
        self._doubtful: list[tuple[Run, float, BaseException]] = []
        self._looked = 0.0

    def has_room(self) -> bool:
        """As many as are wanted, or as fit and one that shows an autoscaler what is missing."""
        return len(self._runs) < (self.resources.slots or self._fitting() + 1)

    def _fitting(self) -> int:
        room, resources = ray.cluster_resources(), self.resources
        asked = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
        fitting = [int(room.get(name, 0) / amount) for name, amount in asked.items() if amount]
        return min(fitting, default=AT_ONCE)

    def start(self, run: Run) -> None:
        """Begin a run."""
        self._watchdog.begin(run)
        reference = self._task.remote(
            self._shared, self.slot, run.configuration, run.attempts, self._pulse(run)
        )
        self._runs[reference] = run

    def _pulse(self, run: Run) -> Pulse:
        return self.state.pulse(run.configuration)

    def ended(self) -> Sequence[Outcome]:
        """What has ended since the last look."""
        hanging = self._hanging()
        if not self._runs:
            return hanging + self._judged()
        over, _ = ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0)
        outcomes = [(self._runs.pop(reference), _outcome(reference)) for reference in over]
        return hanging + self._certain(outcomes) + self._judged()

    def _hanging(self) -> list[Outcome]:
        """Those that have ceased to report; they are ended."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return []
        self._looked = time.monotonic()
        self._losses.look()
        hanging = self._watchdog.hanging(self._runs.values())
        for run, _ in hanging:
            self.stop(run)
        return list(hanging)

    def _certain(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those whose cause is known. A worker that died may have died with its machine."""
        certain: list[Outcome] = []
        for run, outcome in outcomes:
            if not isinstance(outcome, Answer) and self._may_be_lost(outcome):
                self._doubtful.append((run, time.monotonic(), outcome))
            else:
                certain.append((run, outcome))
        return certain

    def _may_be_lost(self, error: BaseException) -> bool:
        """A worker ended without a word, and there are other machines than this one."""
        silent = isinstance(error, RayError) and not isinstance(error, RayTaskError)
        return silent and self._losses.possible

    def _judged(self) -> list[Outcome]:
        """Deaths of which it is known by now whether a machine was lost."""
        judged: list[Outcome] = []
        for death in self._doubtful.copy():
            run, died, error = death
            explained = self._losses.explain(died)
            if explained is not None:
                self._doubtful.remove(death)
                judged.append((run, NodeLostError(str(error)) if explained else error))
        return judged

    def stop(self, run: Run) -> None:
        """End a run's worker."""
        self._doubtful = [death for death in self._doubtful if death[0].id != run.id]
        for reference in [ref for ref, known in self._runs.items() if known.id == run.id]:
            del self._runs[reference]
            ray.cancel(reference, force=True)


def _slot(state: State, find: Callable[[], Slot]) -> Slot:
    """How runs are computed: found once a service and kind of device, where they will run."""
    ledger = state.ledger()
    name = f"{SLOT} on a GPU" if state.settings.resources.gpus_per_trial else SLOT
    text = ledger.fact(name)
    if text is None:
        text = find().to_json()
        ledger.write_fact(name, text)
    ledger.close()
    return Slot.from_json(text)


def _found(state: State) -> Slot:
    from tuner.probing import find  # noqa: PLC0415  needs torch

    settled = state.settled
    return find(state.settings.sweep, settled.vocab_size, Path(settled.corpus))


def _outcome(reference: ObjectRef[Answer]) -> Answer | BaseException:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        return error.cause or error
    except RayError as error:
        return error
