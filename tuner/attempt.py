"""One attempt at a trial: from its last checkpoint, if it has one, to its end. Needs no ray."""

import pickle
from collections.abc import Iterator
from pathlib import Path

from model.progress import Progress
from tuner.backends.contract import Job, Run


def attempt(run: Run, checkpoint: Path) -> Iterator[Progress]:
    """Yield every report of the trial, those of earlier attempts first.

    The state is saved before it is yielded, with all that was yielded: whoever dies between the
    two repeats the report, not the training.

    Args:
        run: of the trial, at its start.
        checkpoint: file that keeps its state between attempts.
    """
    history: list[Progress] = []
    if checkpoint.is_file():
        state, history = pickle.loads(checkpoint.read_bytes())
        run.restore(state)
    yield from history
    for progress in run:
        history.append(progress)
        _write(checkpoint, pickle.dumps((run.state(), history)))
        yield progress


def checkpoint_path(job: Job, key: str) -> Path:
    """Where the trial `key` keeps its state."""
    return job.checkpoints / f"{key}.pickle"


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)
