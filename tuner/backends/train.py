"""Real training: the decoder of `model/`, or somebody's own model, on a prepared corpus."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.corpus import Corpus
from data.loader import Batch, Loader, held_out
from model import custom
from model.device import device_name, memory_bytes
from model.evaluation import LOGITS
from model.execution import Execution
from model.memory import TooLargeError, divisors
from model.parallel import Group
from model.progress import Progress
from model.recipe import Recipe, forked
from model.shape import CountedShape, Shape
from model.speed import Dtype
from model.stack import Stack
from model.train import Training
from model.transformer import BasicsTransformerLM
from tuner.backends.contract import FinalError, Job, OutOfMemoryError
from tuner.config import Sweep
from tuner.errors import ConfigError
from tuner.kernels import kernels
from tuner.sections import Resources
from tuner.space import Trial

Batches = Callable[[int], Batch]

EVALUATION_TOKENS = {"cpu": 2**11, "cuda": 2**15}
"""Tokens evaluated at once, at most: a core is fastest there (measured: model/README.md); a GPU
starts fewer kernels."""


class TrainRun:
    """A trial trained here and now.

    Args:
        job: the sweep.
        trial: what to train.
        micro_batch_size: sequences at once, at most; None leaves it to the memory model.
        on_step: told each step, from 0, before it is taken.
        group: of processes that train it together; None: this one alone.

    Raises:
        FinalError: not even one sequence fits in memory.
    """

    def __init__(
        self,
        job: Job,
        trial: Trial,
        *,
        micro_batch_size: int | None = None,
        on_step: Callable[[int], None] | None = None,
        group: Group | None = None,
    ) -> None:
        if job.corpus is None:
            raise ValueError("the train backend needs a corpus")
        torch.set_num_threads(job.slot.speed.threads)
        context, corpus = trial.shape.context_length, Corpus.open(job.corpus)
        self._reference = job.sweep.model
        self.execution = _execution(job, trial, micro_batch_size)
        batches = Loader(
            corpus,
            context,
            trial.batch_size,
            trial.question.seed,
            workers=job.sweep.resources.loading_workers,
        ).batch
        at_once = max(1, self._evaluated_at_once(trial.shape) // context)
        evaluated = held_out(corpus, context, at_once, job.sweep.data.held_out_tokens)
        chosen = kernels(job.sweep, trial, job.slot)
        self._stacked = chosen.stacked and micro_batch_size is None and group is None
        self.training = Training(
            shape=trial.shape,
            recipe=recipe(job.sweep, trial, job.slot.speed.dtype),
            steps=trial.steps,
            report_at=trial.report_steps,
            batches=batches if on_step is None else _told(batches, on_step),
            held_out=evaluated.batches,
            held_out_documents=evaluated.documents,
            seed=trial.question.seed,
            flops_per_step=trial.flops_per_step,
            start=trial.start,
            execution=self.execution,
            model=_model(job.sweep, trial),
            group=group,
        )

    def _evaluated_at_once(self, shape: Shape) -> int:
        """Tokens: where all their logits are held, as of a split or foreign model, no more."""
        most = EVALUATION_TOKENS[self.execution.device]
        if self.execution.sharded or isinstance(shape, CountedShape):
            return min(most, max(EVALUATION_TOKENS["cpu"], LOGITS // shape.vocab_size))
        return most

    @property
    def micro_batch_size(self) -> int:
        """Sequences whose gradient is computed at once."""
        return self.execution.micro_batch_size or self.training.recipe.batch_size

    def save(self, folder: Path) -> None:
        """Write the model: the decoder in the course's format, any other with where it is from."""
        model, shape = self.training.model, self.training.shape
        if isinstance(shape, CountedShape):
            custom.save(self._reference, shape.asked, model, folder)
        else:
            assert isinstance(model, BasicsTransformerLM)
            model.save_pretrained(folder)

    @property
    def device(self) -> str:
        """The GPU's name, or the processor's architecture."""
        return device_name(self.execution.device)

    def __iter__(self) -> Iterator[Progress]:
        """Train.

        Raises:
            OutOfMemoryError: the micro-batch is too large; a smaller one gives the same row.
        """
        try:
            if self._stacked:  # what a trial's row is must not depend on who trains beside it
                yield from (found[0] for found in Stack([self.training]).run())
            else:
                yield from self.training.run()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(self.micro_batch_size) from error

    def state(self) -> dict[str, Any]:
        """Weights, moments and place."""
        return dict(self.training.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.training.load_state_dict(state)  # pyrefly: ignore


def _model(sweep: Sweep, trial: Trial) -> nn.Module | None:
    """The sweep's own model in the trial's size, counted here as where it was planned.

    Raises:
        AttemptError: it cannot be built or is no causal model of these counts.
    """
    if not isinstance(trial.shape, CountedShape):
        return None
    try:
        if custom.counted(sweep.model, trial.shape.asked) != trial.shape:
            raise FinalError(f"{sweep.model}: counts other weights or FLOPs than in the plan")
        return custom.build(sweep.model, trial.shape.asked, trial.question.seed)
    except custom.ModelError as error:
        raise FinalError(str(error)) from None


def _told(batches: Batches, on_step: Callable[[int], None]) -> Batches:
    def watched(step: int) -> Batch:
        on_step(step)
        return batches(step)

    return watched


def device(resources: Resources) -> str:
    """What trials compute on.

    Raises:
        ConfigError: there is no GPU.
    """
    if not resources.gpus_per_trial:
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError("resources.gpus_per_trial: torch sees no GPU here; set it to 0")
    return "cuda"


def _keep_to_share(memory: float) -> None:
    """Let torch take no more of a GPU than this trial's share: Ray's fractions protect nobody."""
    whole = memory_bytes("cuda")
    torch.cuda.set_per_process_memory_fraction(min(1.0, memory / whole))


def _execution(job: Job, trial: Trial, micro_batch_size: int | None) -> Execution:
    """Where and how a trial is computed, so that it fits in its share of the memory."""
    resources = job.sweep.resources
    try:
        split = job.slot.split(trial.shape, trial.batch_size, resources)
    except TooLargeError as error:
        raise FinalError(str(error)) from None
    place = device(resources)
    if place == "cuda":
        _keep_to_share(job.slot.memory)
    if split.sharded and job.sweep.training.optimizer != "adamw":
        raise FinalError(
            f"{job.sweep.training.optimizer} needs whole matrices, and this model fits in pieces "
            'alone; write training.optimizer = "adamw"'
        )
    share = trial.batch_size // split.devices
    at_most = min(split.micro_batch_size, micro_batch_size or share)
    size = divisors(share, at_most)[0]
    chosen = kernels(job.sweep, trial, job.slot)
    return Execution(
        device=place,
        micro_batch_size=size,
        recompute=split.recompute,
        logit_rows=split.logit_rows,
        attention=job.slot.speed.attention,
        sharded=split.sharded,
        compiled=chosen.compiled,
        captured=chosen.captured,
    )


def recipe(sweep: Sweep, trial: Trial, dtype: Dtype) -> Recipe:
    """The sweep's training section with the trial's rate and batch size, and the slot's dtype."""
    section = sweep.training
    plain = Recipe(
        learning_rate=trial.question.learning_rate,
        batch_size=trial.batch_size,
        weight_decay=trial.weight_decay,
        warmup=section.warmup,
        warmup_floor=section.warmup_floor,
        schedule="wsd" if section.schedule == "forks" else section.schedule,
        final_fraction=section.final_fraction,
        cooldown=section.cooldown,
        cooldown_floor=section.cooldown_floor,
        beta1=section.beta1,
        beta2=section.beta2,
        grad_clip=section.grad_clip,
        optimizer=section.optimizer,
        parametrization=section.parametrization,
        dtype=dtype,
        dropout=section.dropout,
    )
    return plain if trial.fork is None else forked(plain, trial.steps, trial.fork.warmup)
