"""A known law in place of training: instant, for tests, planning and teaching. Needs no torch.

L = E + A/N^alpha + B/D^beta (Hoffmann et al., arXiv 2203.15556, equation 2), parabolas in the
logarithms of the learning rate and of too large a batch on top, and noise that is a function of the
configuration. On request its attempts go wrong, by chance but alike in every run.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from model.progress import DIVERGED_LOSS, Progress
from tuner.backends.contract import AttemptError, Job, OutOfMemoryError
from tuner.backends.instant import InstantRun
from tuner.config import digest
from tuner.space import Trial

EXCESS = 0.3
"""Loss above the law's while the rate is still up, nat/token at the start of a schedule."""


class InjectedFaultError(AttemptError):
    """An attempt ended because `[law.faults]` asks for it."""


class LawRun(InstantRun):
    """A trial answered by the sweep's `[law]`."""

    device = "law"

    def __init__(
        self, job: Job, trial: Trial, attempt: int = 1, micro_batch_size: int | None = None
    ) -> None:
        super().__init__(trial)
        self.law = job.sweep.law
        self.attempt = attempt
        self.micro_batch_size = micro_batch_size or trial.batch_size

    def __iter__(self) -> Iterator[Progress]:
        """Yield the law's loss at each report, until something goes wrong."""
        diverges = self._share("divergence", self.law.diverges)
        breaks = self._share(f"exception {self.attempt}", self.law.faults.raises)
        hangs = self._share(f"hang {self.attempt}", self.law.faults.hangs)
        exhausts = self._share("memory", self.law.faults.exhausts)
        if exhausts < 1 and self.micro_batch_size == self.trial.batch_size:
            raise OutOfMemoryError(self.micro_batch_size)
        begun = self.step
        for progress in super().__iter__():
            done = progress.step / self.trial.steps
            past = (progress.step - begun) / (self.trial.steps - begun)
            if past >= breaks:
                raise InjectedFaultError(f"attempt {self.attempt} broke by step {progress.step}")
            while past >= hangs:
                time.sleep(1)
            if done >= diverges:
                yield replace(progress, loss=DIVERGED_LOSS, final=True, diverged=True)
                return
            yield progress

    def _loss(self, share: float) -> float:
        law, trial = self.law, self.trial
        off = math.log(trial.question.learning_rate / law.learning_rate)
        return (
            law.E
            + law.A / trial.shape.params_non_embedding**law.alpha
            + law.B / (trial.tokens * share) ** law.beta
            + law.curvature * off**2
            + law.batch_curvature * self._excess_batch() ** 2
            + law.noise * float(self._chance("noise").standard_normal())
            + EXCESS * (1 - share)
        )

    def _excess_batch(self) -> float:
        """E-folds of tokens a step beyond what costs nothing."""
        if self.law.batch_tokens is None:
            return 0.0
        tokens = self.trial.batch_size * self.trial.shape.context_length
        return max(0.0, math.log(tokens / self.law.batch_tokens))

    def _rate(self, share: float) -> float:
        return self.trial.question.learning_rate * (1 - share)

    def _seconds(self) -> float:
        if self.law.flops_per_second is not None:
            return self.trial.flops / self.law.flops_per_second
        return self.law.seconds_per_trial

    def _wait(self) -> float:
        return self._seconds()

    def _loss_se(self) -> float:
        return self.law.noise

    def _share(self, stream: str, probability: float) -> float:
        """The share of the run after which something happens; infinite if it does not."""
        happens, when = self._chance(stream).random(2)
        return float(when) if happens < probability else math.inf

    def _chance(self, stream: str) -> np.random.Generator:
        """The same for one configuration wherever and whenever it runs."""
        question = self.trial.question
        asked = (question.budget, question.size, question.learning_rate, question.seed)
        return np.random.default_rng(int(digest((*asked, stream)), 16))
