"""Where runs are computed: threads for what is known at once, Ray tasks for what is trained."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.service import work
from cluster.service.records import Answer, Run
from cluster.service.state import State
from tuner.slot import Slot

if TYPE_CHECKING:
    from ray import ObjectRef

AT_ONCE = 64
"""Runs at once, where nothing else bounds them."""
SLOT = "slot"
"""Fact that says how runs are computed."""
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


class RayTasks:
    """On a Ray cluster, as many at once as its resources hold."""

    look_every = 0.05

    def __init__(self, state: State) -> None:
        import ray  # noqa: PLC0415  laws and records need none

        resources = state.settings.resources
        where = {"num_cpus": resources.cpus_per_trial, "num_gpus": resources.gpus_per_trial}
        self.state = ray.put(state)
        self.resources = resources
        self.slot = _slot(state, lambda: ray.get(ray.remote(**where)(_found).remote(state)))
        self._task = ray.remote(max_retries=0, **where)(work.answer)
        self._runs: dict[ObjectRef[Answer], Run] = {}

    def has_room(self) -> bool:
        """As many as are wanted, or as fit and one that shows an autoscaler what is missing."""
        return len(self._runs) < (self.resources.slots or self._fitting() + 1)

    def _fitting(self) -> int:
        import ray  # noqa: PLC0415

        room, resources = ray.cluster_resources(), self.resources
        asked = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
        fitting = [int(room.get(name, 0) / amount) for name, amount in asked.items() if amount]
        return min(fitting, default=AT_ONCE)

    def start(self, run: Run) -> None:
        """Begin a run."""
        reference = self._task.remote(self.state, self.slot, run.configuration, run.attempts)
        self._runs[reference] = run

    def ended(self) -> Sequence[Outcome]:
        """What has ended since the last look."""
        import ray  # noqa: PLC0415

        if not self._runs:
            return []
        over, _ = ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0)
        return [(self._runs.pop(reference), _outcome(reference)) for reference in over]

    def stop(self, run: Run) -> None:
        """End a run's worker."""
        import ray  # noqa: PLC0415

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


def _outcome(reference: "ObjectRef[Answer]") -> Answer | BaseException:
    import ray  # noqa: PLC0415
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    try:
        return ray.get(reference)
    except RayTaskError as error:
        return error.cause or error
    except RayError as error:
        return error
