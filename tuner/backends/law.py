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
        clean = self._clean(share)
        hurry = math.exp(self.law.hurry * self._off())
        off = self._deviation(clean, share) + self._misfit(clean)
        return clean + off + EXCESS * (1 - share) * hurry

    def _clean(self, share: float) -> float:
        """What the law and the settings alone give when `share` of the run is done, nat/token."""
        law, trial = self.law, self.trial
        return (
            law.E
            + law.A / trial.shape.params_non_embedding**law.alpha
            + law.B / (trial.tokens * share) ** law.beta
            + law.curvature * self._off() ** 2
            + self._batch_penalty()
        )

    def _off(self) -> float:
        """E-folds from the best learning rate to the trial's."""
        law, trial = self.law, self.trial
        size, tokens = math.log(trial.shape.params_non_embedding), math.log(trial.tokens)
        best = math.log(law.learning_rate) + law.rate_params * size + law.rate_tokens * tokens
        return math.log(trial.question.learning_rate) - best

    def _batch_penalty(self) -> float:
        """What a batch larger or smaller than the best one costs, nat/token."""
        law, trial = self.law, self.trial
        if law.batch_tokens is None:
            return 0.0
        best = law.batch_tokens * trial.tokens**law.batch_exponent
        off = math.log(trial.batch_size * trial.shape.context_length / best)
        return (law.batch_curvature if off > 0 else law.batch_curvature_below) * off**2

    def _deviation(self, clean: float, share: float) -> float:
        """The seed's part in a report, nat/token: the same throughout but for the wobble."""
        size = self._noise(clean)
        own = float(self._chance("noise").standard_normal())
        if not self.law.wobble or share == 1.0:
            return size * own
        return size * (own + self.law.wobble * float(self._chance(f"{share!r}").standard_normal()))

    def _misfit(self, clean: float) -> float:
        """The budget's and size's part, whatever the rate and the seed, nat/token."""
        asked = self.trial.question
        seed = digest((asked.budget, asked.size, "misfit", self.law.misfit_draw))
        return self.law.misfit * clean * float(_random(seed).standard_normal())

    def _noise(self, clean: float) -> float:
        return self.law.relative_noise * clean if self.law.relative_noise else self.law.noise

    def _rate(self, share: float) -> float:
        return self.trial.question.learning_rate * (1 - share)

    def _seconds(self) -> float:
        if self.law.flops_per_second is not None:
            return self.trial.flops / self.law.flops_per_second
        return self.law.seconds_per_trial

    def _wait(self) -> float:
        return self._seconds()

    def _loss_se(self) -> float:
        return self._noise(self._clean(1.0))

    def _share(self, stream: str, probability: float) -> float:
        """The share of the run after which something happens; infinite if it does not."""
        happens, when = self._chance(stream).random(2)
        return float(when) if happens < probability else math.inf

    def _chance(self, stream: str) -> np.random.Generator:
        """The same for one configuration wherever and whenever it runs."""
        question = self.trial.question
        asked = (question.budget, question.size, question.learning_rate, question.seed)
        return _random(digest((*asked, stream)))


def _random(seed: str) -> np.random.Generator:
    return np.random.default_rng(int(seed, 16))
