"""Which runs hang: they began, and have not reported for much longer than they should."""

import time
from collections.abc import Callable, Iterable

from cluster.service.pulse import Sign
from cluster.service.records import Run
from cluster.service.state import State
from cluster.service.work import trial_of
from tuner import throughput
from tuner.meter import LEAST_PATIENCE, patience
from tuner.space import Trial

LEAST_LOOKING_UP = 60.0
"""Seconds of silence that a law or a record is allowed beyond what it pretends to take: it works
out a formula, or reads a table."""


class HangError(Exception):
    """A run that was ended because it had ceased to report."""


class Watchdog:
    """Looks at the signs of life of runs, wherever they are computed.

    Args:
        state: of the service.
        sign: by which a run shows that it goes on.
        clock: of this machine: those of others may differ.
    """

    def __init__(
        self,
        state: State,
        sign: Callable[[Run], Sign],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self._sign = sign
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}

    def begin(self, run: Run) -> None:
        """A run is handed out; it may wait for a machine before it begins."""
        self._sign(run).forget()
        self._seen.pop(run.id, None)

    def hanging(self, runs: Iterable[Run]) -> list[tuple[Run, HangError]]:
        """Those of `runs`, all that there are, that have been silent for too long."""
        silences = [(run, self.silence(run)) for run in runs]
        alive = {run.id for run, _ in silences}
        self._seen = {run: seen for run, seen in self._seen.items() if run in alive}
        return [
            (run, HangError(f"it hung: no report for {silence:.0f} s"))
            for run, silence in silences
            if silence > self._patience(run)
        ]

    def silence(self, run: Run) -> float:
        """Seconds since a run's last sign was first seen; 0 before it began."""
        last, now = self._sign(run).last, self._clock()
        if last is None:
            return 0.0
        known = self._seen.get(run.id)
        if known is None or known[0] != last:
            self._seen[run.id] = last, now
            return 0.0
        return now - known[1]

    def _patience(self, run: Run) -> float:
        """Seconds without a report after which a run hangs: as in a sweep."""
        settings = self.state.settings
        if settings.resources.silence is not None:
            return settings.resources.silence
        trial = trial_of(self.state, run.configuration)
        starts = (0, *trial.report_steps[:-1])
        longest = max(end - start for start, end in zip(starts, trial.report_steps, strict=True))
        seconds = longest / trial.steps * self._takes(trial)
        return patience(
            seconds, LEAST_PATIENCE if settings.backend == "train" else LEAST_LOOKING_UP
        )

    def _takes(self, trial: Trial) -> float:
        """Seconds that a whole trial should take."""
        settings = self.state.settings
        if settings.backend == "train":
            return trial.flops / throughput.known(settings.sweep).typical
        if settings.backend == "replay":
            return 0.0
        pretended = settings.law.flops_per_second
        return trial.flops / pretended if pretended else settings.law.seconds_per_trial
