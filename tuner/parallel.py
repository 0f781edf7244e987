"""A trial on several devices: Ray Train's workers, one a device, inside a trial that holds none."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.train
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from typing_extensions import override

from model.parallel import TorchGroup
from tuner import corpora, space
from tuner.attempt import attempt, checkpoint_of, read
from tuner.backends.contract import AttemptError, Job, WorkerLostError
from tuner.backends.train import TrainRun
from tuner.bundle import Bundle
from tuner.storage import Place


def run_trial(config: dict[str, Any], *, job: Job) -> None:
    """Run one trial on `config["devices"]` workers, in the process of its Tune trial.

    Args:
        config: as `tuner.trainable.run_trial` takes it.
        job: what all trials of the sweep share.

    Raises:
        AttemptError: what a worker raised, or that one is gone.
    """
    resources = job.sweep.resources
    system, path = (job.checkpoints / "workers").opened
    each = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
    trainer = _Trainer(
        _work,
        train_loop_config={"config": config, "job": job},
        scaling_config=ScalingConfig(
            num_workers=config["devices"],
            use_gpu=resources.gpus_per_trial > 0,
            resources_per_worker={name: amount for name, amount in each.items() if amount},
        ),
        run_config=RunConfig(
            name=f"{config['key']}-{uuid.uuid4().hex[:8]}",
            storage_filesystem=system,
            storage_path=path,
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=0),  # attempts are the engine's
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from None


class _Trainer(TorchTrainer):
    """Leaves it to the driver to free what a trial that is stopped still holds: `nodes.reclaim`.

    Ray's own cleaner, an actor a trial, asks the dashboard whether the trial's controller lives.
    Where there is none it never learns, and stays for good, as do the cores that it should free.
    """

    @override
    def _create_default_callbacks(self) -> list[Any]:
        kept = super()._create_default_callbacks()
        return [one for one in kept if not isinstance(one, PlacementGroupCleanerCallback)]


def _work(loop: dict[str, Any]) -> None:
    """One worker: all compute, the first one writes the checkpoint, all report at once."""
    from tuner.trainable import result  # noqa: PLC0415  which imports this module

    config, job = loop["config"], corpora.on_this_node(loop["job"])
    (told,) = Bundle.from_dict(config["bundle"]).members
    trial = space.trial(job.sweep, told.question, job.vocab_size)
    group = TorchGroup()
    run = TrainRun(job, trial, micro_batch_size=told.micro_batch_size, group=group)
    checkpoint = checkpoint_of(job, trial.key)
    saved = read(checkpoint)
    kept = _Read(checkpoint.uri) if group.rank else checkpoint
    for progress in attempt(run, kept, saved):
        ray.train.report({**result(trial.key, progress, job, run.device), "began": saved.step})


@dataclass(frozen=True)
class _Read(Place):
    """A checkpoint that another worker writes."""

    @override
    def write(self, content: bytes) -> None:
        """Leave it to the first."""


def _cause(error: Exception) -> AttemptError:
    """Why a trial died: what a worker of it says of the attempt, or that one of them is gone.

    Anything else that one raises may be another's end as it sees it: a connection closed by a peer.
    """
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    raised = [failure for failure in failures.values() if isinstance(failure, AttemptError)]
    first = next(iter(failures.values()), error)
    said = str(first).strip().partition("\n")[0]
    return raised[0] if raised else WorkerLostError(f"{type(first).__name__}: {said}")
