"""TensorBoard logs of a sweep, where they are read: one run a trial, figures in the root."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial

from model.progress import Progress
from tuner.bundle import Bundle
from tuner.drawing import Draftsman
from tuner.engine import Engine
from tuner.events import EventFile
from tuner.ledger import ENDED, Record
from tuner.trainable import reported
from tuner.watch import Unsaved

TOKENS, FLOPS, END = "by tokens", "by MFLOP", "end"
"""Groups of curves, named after their x axis: a step of TensorBoard's is a whole number, and below
2**63; a trial may take more FLOPs. Its table of trials breaks at steps from 2**31, so the table's
metrics stand at step 0."""
MFLOP = 10**6


class TensorBoard(Unsaved, Callback):
    """Writes each report of each trial into `folder/<trial>`, and profiles as they grow."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self._files: dict[str, EventFile] = {}
        self._root = EventFile(folder)
        self._root.table(COLUMNS, {f"{END}/{name}": name for name in METRICS})
        self._draftsman = Draftsman(engine, self._root)

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
        if key not in self._files:
            self._files[key] = EventFile(self.folder / key)
        _write(self._files[key], reported(result), result["peak_flops"])

    def on_trial_complete(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Write what was asked beside what came of it, and close the runs."""
        self._close(trial)
        self._draftsman.wake()

    def on_trial_error(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Close the runs: another attempt of what is not over begins its own file."""
        self._close(trial)

    def _close(self, trial: RayTrial) -> None:
        for key in Bundle.from_dict(trial.config["bundle"]).keys:
            file, record = self._files.pop(key, None), self.engine.ledger.record(key)
            if file is not None and record.status in ENDED:
                self._end(file, record)
            elif file is not None:
                file.close()

    def on_experiment_end(self, trials: list[RayTrial], **info: Any) -> None:
        """Write what was answered from the record, draw a last time, close what is open."""
        for record in self.engine.ledger.records(*ENDED):
            if not record.attempts and not (self.folder / record.key).exists():
                file = EventFile(self.folder / record.key)
                for progress in self.engine.ledger.reports(record.key):
                    _write(file, progress, float(record.device.get("peak_flops", 0)))
                self._end(file, record)
        for file in self._files.values():
            file.close()
        self._draftsman.finish()
        self._root.close()

    def _end(self, file: EventFile, record: Record) -> None:
        trial, asked = self.engine.trial(record), record.question
        settings = (
            asked.budget, f"{asked.size[0]}x{asked.size[1]}", trial.shape.params_non_embedding,
            asked.learning_rate, trial.batch_size, trial.weight_decay, asked.seed, record.status,
        )  # fmt: skip
        file.row(record.key, dict(zip(COLUMNS, settings, strict=True)))
        last = self.engine.ledger.last(record.key)
        if last is not None and not last.diverged:
            found = _scalars(last, float(record.device.get("peak_flops", 0)))
            known = {f"{END}/{name}": found[name] for name in METRICS if name in found}
            file.scalars(known, 0, "At the trial's end.")
        file.close()


COLUMNS = [
    "budget", "size", "params", "learning_rate", "batch_size", "weight_decay", "seed", "status",
]  # fmt: skip
"""Of TensorBoard's table of trials."""
METRICS = ("loss", "mfu")
"""Likewise, as they are at a trial's end."""


def _write(file: EventFile, progress: Progress, peak: float) -> None:
    """Write a report twice: against tokens, and its loss against FLOPs."""
    if progress.diverged:
        return  # its loss is a stand-in
    scalars = _scalars(progress, peak)
    losses = {name: scalars[name] for name in ("loss", "train_loss")}
    by_tokens = {f"{TOKENS}/{name}": value for name, value in scalars.items()}
    by_flops = {f"{FLOPS}/{name}": value for name, value in losses.items()}
    file.scalars(by_tokens, progress.tokens, "Step: training tokens.")
    file.scalars(by_flops, progress.flops // MFLOP, "Step: millions of training FLOPs.")


def _scalars(progress: Progress, peak: float) -> dict[str, float]:
    """What a report says, by name; speeds only where they are known."""
    seconds = progress.seconds
    found = {
        "loss": progress.loss,
        "train_loss": progress.train_loss,
        "learning_rate": progress.learning_rate,
    }
    if seconds:
        found["tokens_per_second"] = progress.tokens / seconds
    if seconds and peak:
        found["mfu"] = progress.flops / seconds / peak
    return found
