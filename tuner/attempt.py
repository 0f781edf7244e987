"""One attempt at a trial: from its last checkpoint, if it has one, to its end. Needs no ray."""

import pickle
from collections.abc import Iterator
from typing import Any

from model.progress import Progress
from tuner.backends.contract import Job, Run
from tuner.storage import Place


def attempt(run: Run, checkpoint: Place) -> Iterator[Progress]:
    """Yield every report of the trial, those of earlier attempts first.

    The state is saved before it is yielded, with all that was yielded: whoever dies between the
    two repeats the report, not the training.

    Args:
        run: of the trial, at its start.
        checkpoint: the file that keeps its state between attempts.
    """
    history: list[Progress] = []
    saved = _read(checkpoint)
    if saved is not None:
        state, history = saved
        run.restore(state)
    yield from history
    for progress in run:
        history.append(progress)
        checkpoint.write(pickle.dumps((run.state(), history)))
        yield progress


def checkpoint_of(job: Job, key: str) -> Place:
    """Where the trial `key` keeps its state."""
    return job.checkpoints / f"{key}.pickle"


def began(checkpoint: Place) -> int:
    """The step from which an attempt would train: its checkpoint's, or 0."""
    saved = _read(checkpoint)
    return saved[1][-1].step if saved else 0


def _read(checkpoint: Place) -> tuple[dict[str, Any], list[Progress]] | None:
    """What a checkpoint holds; None if there is none that a power cut left whole."""
    content = checkpoint.read()
    try:
        return None if content is None else pickle.loads(content)
    except (EOFError, pickle.UnpicklingError):
        return None
