"""Recorded runs in place of training: any run table with curves answers. Needs no torch."""

from functools import cached_property

from tuner import recording
from tuner.backends.contract import FinalError, Job
from tuner.backends.instant import InstantRun
from tuner.recording import Answer, NothingNearError
from tuner.space import Trial


class NothingRecordedError(FinalError):
    """No recorded run is near enough to the trial."""


class ReplayRun(InstantRun):
    """A trial answered from the sweep's `[replay]`."""

    def __init__(self, job: Job, trial: Trial) -> None:
        super().__init__(trial)
        self.sweep = job.sweep

    @property
    def device(self) -> str:
        """Which recorded runs answer."""
        return f"replay of {self._answer.told}"

    @cached_property
    def _answer(self) -> Answer:
        record = recording.of(self.sweep)
        match = record.nearest if self.sweep.replay.match == "nearest" else record.interpolated
        asked, params = self.trial.question, self.trial.shape.params_non_embedding
        try:
            return match(asked.budget, params, asked.learning_rate, asked.seed)
        except NothingNearError as error:
            raise NothingRecordedError(str(error)) from None

    def _loss(self, share: float) -> float:
        return self._answer.loss(share)

    def _loss_se(self) -> float:
        return self._answer.loss_se

    def _rate(self, share: float) -> float:  # noqa: ARG002  the same throughout
        """The peak: a record does not tell how it came down."""
        return self.trial.question.learning_rate

    def _seconds(self) -> float:
        return self._answer.seconds
