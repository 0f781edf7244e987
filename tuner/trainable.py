"""The one place where Ray meets a backend: a worker runs a trial and reports."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from ray import tune

from model.progress import Progress
from tuner import corpora, space
from tuner.attempt import attempts, begun, checkpoint_of, kept, trunk_of
from tuner.backends import several
from tuner.backends.contract import Job
from tuner.bundle import Bundle
from tuner.slot import Slot


def run_trial(config: dict[str, Any], *, job: Job) -> None:
    """Run the trials of a bundle, each to its end or until a report of it is its last.

    Args:
        config: `bundle`, what to run; `devices`, how many train it together; and columns for people
            to read.
        job: what all trials of the sweep share.
    """
    if config["devices"] > 1:
        from tuner import parallel  # noqa: PLC0415  needs torch

        parallel.run_trial(config, job=job)
        return
    job, bundle = corpora.on_this_node(job), Bundle.from_dict(config["bundle"])
    runs = several.start(job, bundle)
    trials = [space.trial(job.sweep, one.question, job.vocab_size) for one in bundle.members]
    checkpoints = {trial.key: checkpoint_of(job, trial.key) for trial in trials}
    trunks = {(key, at): trunk_of(job, key) for key, at in kept(job.sweep, trials)}
    saved = {trial.key: begun(job, trial) for trial in trials}
    for key, progress in attempts(runs, checkpoints, saved, trunks):
        tune.report({**result(key, progress, job, runs.device), "began": saved[key].step})


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
