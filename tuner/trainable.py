"""The one place where Ray meets a backend: a worker runs a trial, reports, and can go on."""

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from model.progress import Progress
from tuner import space
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.space import Question


def run_trial(config: dict[str, Any], *, job: Job) -> None:
    """Run one trial from its last checkpoint, if it has one, to its end.

    The state is saved before it is reported, with everything reported so far: a worker that dies
    between the two repeats the report, not the training.

    Args:
        config: `asked`, the fields of the question; and columns for people to read.
        job: what all trials of the sweep share.
    """
    asked = config["asked"]
    question = Question(**{**asked, "size": tuple(asked["size"])})
    trial = space.trial(job.sweep, question, job.vocab_size)
    run = contract.start(job, trial)
    path = job.checkpoints / f"{trial.key}.pickle"
    history: list[Progress] = []
    if path.is_file():
        state, history = pickle.loads(path.read_bytes())
        run.restore(state)
    for progress in history:
        _report(trial, progress, job, run.device)
    for progress in run:
        history.append(progress)
        _write(path, pickle.dumps((run.state(), history)))
        _report(trial, progress, job, run.device)


def _report(trial: space.Trial, progress: Progress, job: Job, device: str) -> None:
    speed = progress.flops / progress.seconds if progress.seconds else 0.0
    tune.report(
        {
            **asdict(progress),
            "key": trial.key,
            "device": device,
            "peak_flops": job.peak_flops,
            "mfu": speed / job.peak_flops if job.peak_flops else 0.0,
            "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else 0.0,
            # TensorBoard's x axis.
            "timesteps_total": progress.tokens,
        }
    )


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)
