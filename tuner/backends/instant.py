"""What the backends share that know a trial's losses without training. Needs no torch."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from model.progress import Progress
from tuner.space import Trial


class InstantRun(ABC):
    """A trial answered at once: its state is the step it stands at."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.step = 0

    def __iter__(self) -> Iterator[Progress]:
        """Yield at each report that is still to come."""
        for step in self.trial.report_steps:
            if step > self.step:
                time.sleep(self._wait() * (step - self.step) / self.trial.steps)
                self.step = step
                yield self._progress()

    def state(self) -> dict[str, Any]:
        """The step it stands at."""
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Stand at that step."""
        self.step = state["step"]

    @property
    @abstractmethod
    def device(self) -> str:
        """What answers."""

    @abstractmethod
    def _loss(self, share: float) -> float:
        """Held-out loss when `share` of the run is done, nat/token."""

    @abstractmethod
    def _rate(self, share: float) -> float:
        """Learning rate when `share` of the run is done."""

    @abstractmethod
    def _seconds(self) -> float:
        """Training seconds that the whole run reports."""

    def _wait(self) -> float:
        """Seconds that the whole run really takes."""
        return 0.0

    def _loss_se(self) -> float:
        """Standard error of the losses, nat/token."""
        return 0.0

    def _progress(self) -> Progress:
        trial, share = self.trial, self.step / self.trial.steps
        loss = self._loss(share)
        return Progress(
            step=self.step,
            tokens=self.step * trial.batch_size * trial.shape.context_length,
            flops=self.step * trial.flops_per_step,
            flops_evaluation=0,
            loss=loss,
            loss_se=self._loss_se(),
            train_loss=loss,
            learning_rate=self._rate(share),
            seconds=self._seconds() * share,
            final=self.step == trial.steps,
        )
