"""The one place where Ray meets a backend: a worker runs a trial and reports."""

from dataclasses import asdict
from typing import Any

from ray import tune

from model.progress import Progress
from tuner import space
from tuner.attempt import attempt, began, checkpoint_path
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.config import Sweep
from tuner.question import Question


def run_trial(config: dict[str, Any], *, job: Job) -> None:
    """Run one trial to its end, or until the scheduler stops it at a report.

    Args:
        config: `asked`, the fields of the question; `attempt`, which of its starts this is, counted
            from 1; `micro_batch_size`, sequences at once, at most, or None; and columns for people
            to read.
        job: what all trials of the sweep share.
    """
    trial = space.trial(job.sweep, Question.from_dict(config["asked"]), job.vocab_size)
    run = contract.start(
        job, trial, attempt=config["attempt"], micro_batch_size=config["micro_batch_size"]
    )
    checkpoint = checkpoint_path(job, trial.key)
    start = began(checkpoint)
    for progress in attempt(run, checkpoint):
        tune.report({**_result(trial.key, progress, job, run.device), "began": start})


def probe_peak(sweep: Sweep) -> float:
    """Peak FLOP/s of one slot, on the device, with the threads and in the dtype of its trials."""
    import torch  # noqa: PLC0415  a sweep on a law needs none

    from model.peak import peak_flops  # noqa: PLC0415

    torch.set_num_threads(max(1, int(sweep.resources.cpus_per_trial)))
    device = "cuda" if sweep.resources.gpus_per_trial > 0 else "cpu"
    return peak_flops(sweep.training.dtype, device)


def _result(key: str, progress: Progress, job: Job, device: str) -> dict[str, Any]:
    seconds = progress.seconds
    return {
        **asdict(progress),
        "key": key,
        "device": device,
        "peak_flops": job.peak_flops,
        "mfu": progress.flops / seconds / job.peak_flops if seconds and job.peak_flops else 0.0,
        "tokens_per_second": progress.tokens / seconds if seconds else 0.0,
    }
