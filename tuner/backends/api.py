"""A remote training service in place of training. Needs no torch."""

import time
from functools import cached_property

from tuner.backends.contract import AttemptError, FinalError, Job
from tuner.backends.instant import InstantRun
from tuner.remote import BrokenError, Client, Query, RefusedError, UnreachableError
from tuner.space import Trial


class ServiceRefusedError(FinalError):
    """The service refuses the trial: out of its ranges, or beyond its budget."""


class ServiceFailedError(AttemptError):
    """The service could not be reached, or failed; another attempt may do better."""


class ApiRun(InstantRun):
    """A trial answered by the service of the sweep's `[api]`."""

    def __init__(self, job: Job, trial: Trial) -> None:
        super().__init__(trial)
        self.api = job.sweep.api
        self.client = Client(self.api, job.checkpoints.beside / "api")

    @property
    def device(self) -> str:
        """Which service answers."""
        return f"api of {self.api.base_url}"

    @cached_property
    def _answer(self) -> tuple[float, float]:
        """Loss, nat/token, and the seconds it took to be told."""
        shape, asked = self.trial.shape, self.trial.question
        query = Query(
            d_model=shape.d_model, num_layers=shape.num_layers, num_heads=shape.num_heads,
            batch_size=self.trial.batch_size, learning_rate=asked.learning_rate,
            train_flops=int(asked.budget),
        )  # fmt: skip
        began = time.monotonic()
        try:
            return self.client.loss(query), time.monotonic() - began
        except RefusedError as error:
            raise ServiceRefusedError(str(error)) from None
        except (BrokenError, UnreachableError) as error:
            raise ServiceFailedError(str(error)) from None

    def _loss(self, share: float) -> float:  # noqa: ARG002  only the end is told
        return self._answer[0]

    def _rate(self, share: float) -> float:  # noqa: ARG002  how it came down is not told
        return self.trial.question.learning_rate

    def _seconds(self) -> float:
        return self._answer[1]
