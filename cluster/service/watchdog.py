"""Which trainings hang: they began, and have not reported for much longer than they should."""

import time
from collections.abc import Callable

from cluster.service.records import Run
from cluster.service.state import State
from cluster.service.work import trial_of


class HangError(Exception):
    """A training that was ended because it had ceased to report."""


class Watchdog:
    """Looks at the signs of life of trainings, wherever they run.

    Args:
        state: of the service.
        clock: of this machine: those of others may differ.
    """

    def __init__(self, state: State, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = state
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}

    def begin(self, run: Run) -> None:
        """A run is handed out; it may wait for a machine before it begins."""
        self.state.pulse(run.configuration).forget()
        self._seen.pop(run.id, None)

    def hangs(self, run: Run) -> float | None:
        """Seconds for which a run has been silent, if that is too long."""
        beat = self.state.pulse(run.configuration).last
        if beat is None:
            return None
        known, now = self._seen.get(run.id), self._clock()
        if known is None or known[0] != beat:
            self._seen[run.id] = beat, now
            return None
        silence = now - known[1]
        return silence if silence > self._patience(run) else None

    def _patience(self, run: Run) -> float:
        """Seconds without a report after which a run hangs: as in a sweep."""
        from tuner import throughput  # noqa: PLC0415
        from tuner.engine import LEAST_PATIENCE, PATIENCE  # noqa: PLC0415  loads optuna

        sweep = self.state.settings.sweep
        if sweep.resources.silence is not None:
            return sweep.resources.silence
        trial = trial_of(self.state, run.configuration)
        starts = (0, *trial.report_steps[:-1])
        longest = max(end - start for start, end in zip(starts, trial.report_steps, strict=True))
        takes = longest * trial.flops_per_step / throughput.known(sweep).typical
        return max(LEAST_PATIENCE, PATIENCE * takes)
