"""One attempt at a trial: from its last checkpoint, if it has one, to its end. Needs no ray."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    saved = _read(checkpoint)
    if saved is not None:
        state, history = saved
        run.restore(state)
    yield from history
    for progress in run:
        history.append(progress)
        _write(checkpoint, pickle.dumps((run.state(), history)))
        yield progress


def checkpoint_path(job: Job, key: str) -> Path:
    """Where the trial `key` keeps its state."""
    return job.checkpoints / f"{key}.pickle"


def began(checkpoint: Path) -> int:
    """The step from which an attempt would train: its checkpoint's, or 0."""
    saved = _read(checkpoint)
    return saved[1][-1].step if saved else 0


def _read(path: Path) -> tuple[dict[str, Any], list[Progress]] | None:
    """What a checkpoint holds; None if there is none that a power cut left whole."""
    try:
        return pickle.loads(path.read_bytes())
    except (FileNotFoundError, EOFError, pickle.UnpicklingError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
