"""The one place where Ray meets a backend: a worker runs a trial and reports."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from ray import tune

from model.progress import Progress
from tuner import corpora, space
from tuner.attempt import attempt, checkpoint_of, read
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.question import Question
from tuner.slot import Slot


def run_trial(config: dict[str, Any], *, job: Job) -> None:
    """Run one trial to its end, or until the scheduler stops it at a report.

    Args:
        config: `asked`, the fields of the question; `attempt`, which of its starts this is, counted
            from 1; `micro_batch_size`, sequences at once, at most, or None; and columns for people
            to read.
        job: what all trials of the sweep share.
    """
    if config["devices"] > 1:
        from tuner import parallel  # noqa: PLC0415  needs torch

        parallel.run_trial(config, job=job)
        return
    job = corpora.on_this_node(job)
    trial = space.trial(job.sweep, Question.from_dict(config["asked"]), job.vocab_size)
    run = contract.start(
        job, trial, attempt=config["attempt"], micro_batch_size=config["micro_batch_size"]
    )
    checkpoint = checkpoint_of(job, trial.key)
    saved = read(checkpoint)
    for progress in attempt(run, checkpoint, saved):
        tune.report({**result(trial.key, progress, job, run.device), "began": saved.step})


def find_slot(job: Job) -> Slot:
    """What the process it runs in offers one trial: see `tuner.probing`."""
    from tuner import probing  # noqa: PLC0415  a sweep on a law needs no torch

    job = corpora.on_this_node(job)
    if job.corpus is None:
        raise ValueError("only real training has a slot to find")
    found = probing.find(job.sweep, job.vocab_size, job.corpus)
    return replace(found, peaks=probing.peaks(job.sweep, found.speed))


def reported(result: Mapping[str, Any]) -> Progress:
    """What a worker told, from Ray's dict of it."""
    return Progress(**{field.name: result[field.name] for field in fields(Progress)})


def result(key: str, progress: Progress, job: Job, device: str) -> dict[str, Any]:
    """What Tune is told of a report."""
    peak = job.slot.peaks.get(device, 0.0)
    return {**asdict(progress), "key": key, "device": device, "peak_flops": peak}
