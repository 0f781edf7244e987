"""One run from its configuration to its answer, wherever that is computed."""

import math

from cluster.service import configuration
from cluster.service.configuration import Configuration
from cluster.service.records import Answer, Run
from cluster.service.state import State
from model.progress import Progress
from tuner.attempt import attempt, read
from tuner.backends import contract
from tuner.backends.contract import FinalError, OutOfMemoryError
from tuner.slot import Slot
from tuner.space import Trial
from tuner.storage import Place


def answer(state: State, slot: Slot, asked: Configuration, attempts: int) -> Answer:
    """Answer a configuration, from its checkpoint if there is one.

    Args:
        state: of the service.
        slot: what it is computed on, and how.
        asked: what.
        attempts: times it was started, this one included.

    Raises:
        FinalError: no attempt will do better.
        AttemptError: this one ended, another may not.
    """
    job, trial = state.job(slot), trial_of(state, asked)
    trains, micro_batch_size = state.settings.backend == "train", None
    while True:
        try:
            run = contract.start(job, trial, attempt=attempts, micro_batch_size=micro_batch_size)
            reports = list(attempt(run, Place.of(state.checkpoint(asked))) if trains else run)
            return _answer(trial, reports[-1], run.device)
        except OutOfMemoryError as error:
            if error.micro_batch_size == 1:
                raise
            micro_batch_size = error.micro_batch_size // 2


def _answer(trial: Trial, last: Progress, by: str) -> Answer:
    if last.diverged:  # its loss is a stand-in, which no client could tell from a measured one
        raise FinalError(
            f"the training diverged by step {last.step} of {trial.steps}; lower learning_rate"
        )
    return Answer(loss=last.loss, by=by)


def trial_of(state: State, asked: Configuration) -> Trial:
    """The trial that answers a configuration which was accepted."""
    settled = state.settled
    return configuration.trial(state.settings, asked, settled.vocab_size, settled.most_tokens)


def spent(state: State, run: Run) -> int:
    """FLOP to charge for a run that is stopped now: what was asked, up to its next report."""
    trial = trial_of(state, run.configuration)
    reached = read(Place.of(state.checkpoint(run.configuration))).step
    if reached >= trial.steps:
        return run.flops
    return math.ceil(run.flops * trial.next_report(reached) / trial.steps)
