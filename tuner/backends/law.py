"""A known law in place of training: instant, for tests, planning and teaching. Needs no torch.

L = E + A/N^alpha + B/D^beta (Hoffmann et al., arXiv 2203.15556, equation 2), a parabola in the
logarithm of the learning rate on top, and noise that is a function of the configuration.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from model.progress import Progress
from tuner.backends.contract import Job
from tuner.config import digest
from tuner.space import Trial

EXCESS = 0.3
"""Loss above the law's while the rate is still up, nat/token at the start of a schedule."""


class LawRun:
    """A trial answered by the sweep's `[law]`."""

    device = "law"

    def __init__(self, job: Job, trial: Trial) -> None:
        self.law = job.sweep.law
        self.trial = trial
        self.step = 0

    def __iter__(self) -> Iterator[Progress]:
        """Yield the law's loss at each report."""
        for step in self.trial.report_steps:
            if step > self.step:
                time.sleep(self.law.seconds_per_trial * (step - self.step) / self.trial.steps)
                self.step = step
                yield self._progress()

    def state(self) -> dict[str, Any]:
        """The step it stands at."""
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Stand at that step."""
        self.step = state["step"]

    def _progress(self) -> Progress:
        trial, share = self.trial, self.step / self.trial.steps
        loss = self._loss(trial.tokens * share) + EXCESS * (1 - share)
        return Progress(
            step=self.step,
            tokens=trial.tokens * self.step // trial.steps,
            flops=self.step * trial.flops_per_step,
            flops_evaluation=0,
            loss=loss,
            loss_se=self.law.noise,
            train_loss=loss,
            learning_rate=trial.question.learning_rate * (1 - share),
            seconds=self.law.seconds_per_trial * share,
            final=self.step == trial.steps,
        )

    def _loss(self, tokens: float) -> float:
        law = self.law
        params = self.trial.shape.params_non_embedding
        off = math.log(self.trial.question.learning_rate / law.learning_rate)
        return (
            law.E
            + law.A / params**law.alpha
            + law.B / tokens**law.beta
            + law.curvature * off**2
            + law.noise * self._noise()
        )

    def _noise(self) -> float:
        """Standard normal, the same for one configuration wherever and whenever it runs."""
        question = self.trial.question
        asked = (question.budget, question.size, question.learning_rate, question.seed)
        return float(np.random.default_rng(int(digest(asked), 16)).standard_normal())
