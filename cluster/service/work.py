"""One run from its configuration to its answer, wherever that is computed."""

from typing_extensions import override

from cluster.service import configuration
from cluster.service.configuration import Configuration
from cluster.service.pulse import Sign
from cluster.service.records import Answer, Run
from cluster.service.state import State
from model.progress import Progress
from tuner.attempt import attempt, read
from tuner.backends import contract
from tuner.backends.contract import FinalError, OutOfMemoryError
from tuner.slot import Slot
from tuner.space import Trial
from tuner.storage import Place


def answer(state: State, slot: Slot, asked: Configuration, attempts: int, sign: Sign) -> Answer:
    """Answer a configuration, from its checkpoint if there is one.

    Args:
        state: of the service.
        slot: what it is computed on, and how.
        asked: what.
        attempts: times it was started, this one included.
        sign: given once it begins, and at each report.

    Raises:
        FinalError: no attempt will do better.
        AttemptError: this one ended, another may not.
    """
    job, trial = state.job(slot), trial_of(state, asked)
    trains, micro_batch_size = state.settings.backend == "train", None
    while True:
        try:
            run = contract.start(job, trial, attempt=attempts, micro_batch_size=micro_batch_size)
            sign.beat()
            reports = []
            for report in attempt(run, Place.of(state.checkpoint(asked))) if trains else run:
                reports.append(report)
                sign.beat()
            return _answer(asked, trial, reports[-1], run.device)
        except OutOfMemoryError as error:
            if error.micro_batch_size == 1:
                raise
            micro_batch_size = error.micro_batch_size // 2


class DivergedError(FinalError):
    """A training without a loss, and what it took: it is not had for nothing."""

    def __init__(self, reason: str, spent: int) -> None:
        super().__init__(reason, spent)
        self.reason = reason
        self.spent = spent
        """FLOP of what was asked."""

    @override
    def __str__(self) -> str:
        return self.reason


def _answer(asked: Configuration, trial: Trial, last: Progress, by: str) -> Answer:
    if last.diverged:  # its loss is a stand-in, which no client could tell from a measured one
        raise DivergedError(
            f"the training diverged by step {last.step} of {trial.steps}; lower learning_rate",
            _worth(asked, trial, last.step),
        )
    return Answer(loss=last.loss, by=by)


def trial_of(state: State, asked: Configuration) -> Trial:
    """The trial that answers a configuration which was accepted."""
    settled = state.settled
    return configuration.trial(state.settings, asked, settled.vocab_size, settled.most_tokens)


def spent(state: State, run: Run) -> int:
    """FLOP of what was asked that are spent once a run is stopped now: up to its next report."""
    asked, trial = run.configuration, trial_of(state, run.configuration)
    reached = read(Place.of(state.checkpoint(asked))).step
    waits = state.settings.backend == "train" and state.pulse(asked).last is None
    if reached < trial.steps and not waits:  # for a machine that it was never given
        reached = trial.next_report(reached)
    return _worth(asked, trial, reached)


def _worth(asked: Configuration, trial: Trial, step: int) -> int:
    """FLOP of what is charged for the whole run, up to a step."""
    return -(-asked.train_flops * step // trial.steps)
