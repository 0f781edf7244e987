"""TensorBoard logs of a sweep, written where they are read: one run a trial, x axis tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

SCALARS = ("loss", "train_loss", "learning_rate", "tokens_per_second", "mfu", "flops")


class TensorBoard(Callback):
    """Writes each report of each trial into `folder/<trial>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def on_trial_result(
        self,
        iteration: int,
        trials: list[RayTrial],
        trial: RayTrial,
        result: Mapping[str, Any],
        **info: Any,
    ) -> None:
        """Write a report."""
        key = result["key"]
        if key not in self._writers:
            self._writers[key] = SummaryWriter(str(self.folder / key))
        writer = self._writers[key]
        for name in SCALARS:
            writer.add_scalar(name, float(result[name]), global_step=result["tokens"])
        writer.flush()

    def on_trial_complete(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Write what was asked beside what came of it, and close the run."""
        key = trial.config["key"]
        writer = self._writers.pop(key, None)
        if writer is None:
            return
        asked = trial.config["asked"]
        asked_for = {name: value for name, value in trial.config.items() if name != "asked"}
        asked_for |= {"budget": asked["budget"], "learning_rate": asked["learning_rate"]}
        final = {"final_loss": float(trial.last_result["loss"])}
        # Not add_hparams: it opens a second file, of the same name if the second is the same.
        if writer.file_writer is not None:
            for summary in hparams(asked_for, final):
                writer.file_writer.add_summary(summary)
        writer.add_scalar("final_loss", final["final_loss"])
        writer.close()

    def on_experiment_end(self, trials: list[RayTrial], **info: Any) -> None:
        """Close what is open."""
        for writer in self._writers.values():
            writer.close()
