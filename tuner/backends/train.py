"""Real training: the decoder of `model/` on a prepared corpus."""

import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch

from data.corpus import Corpus
from data.loader import Batch, Loader, held_out_batches
from model.progress import Progress
from model.recipe import Recipe
from model.train import Training
from model.transformer import BasicsTransformerLM
from tuner.backends.contract import Job
from tuner.config import ConfigError, Sweep
from tuner.space import Trial

Batches = Callable[[int], Batch]

EVALUATION_TOKENS = 2_048
"""Tokens evaluated at once, at most: a core is fastest there (measured: model/README.md)."""


class TrainRun:
    """A trial trained here and now; `on_step` is told each step, from 0, before it is taken."""

    def __init__(
        self, job: Job, trial: Trial, on_step: Callable[[int], None] | None = None
    ) -> None:
        if job.corpus is None:
            raise ValueError("the train backend needs a corpus")
        torch.set_num_threads(max(1, int(job.sweep.resources.cpus_per_trial)))
        context, corpus = trial.shape.context_length, Corpus.open(job.corpus)
        self._gpu = job.sweep.resources.gpus_per_trial > 0
        if self._gpu and not torch.cuda.is_available():
            raise ConfigError("resources.gpus_per_trial: torch sees no GPU here; set it to 0")
        batches = Loader(corpus, context, trial.batch_size, trial.question.seed).batch
        self._training = Training(
            shape=trial.shape,
            recipe=recipe(job.sweep, trial),
            steps=trial.steps,
            report_at=trial.report_steps,
            batches=batches if on_step is None else _told(batches, on_step),
            held_out=held_out_batches(
                corpus,
                context,
                max(1, EVALUATION_TOKENS // context),
                job.sweep.data.held_out_tokens,
            ),
            seed=trial.question.seed,
            flops_per_step=trial.flops_per_step,
            device="cuda" if self._gpu else "cpu",
        )

    @property
    def model(self) -> BasicsTransformerLM:
        """What is trained."""
        model = self._training.model
        assert isinstance(model, BasicsTransformerLM)
        return model

    @property
    def device(self) -> str:
        """The GPU's name, or the processor's architecture."""
        return torch.cuda.get_device_name() if self._gpu else f"{platform.machine()} CPU"

    def __iter__(self) -> Iterator[Progress]:
        """Train."""
        return self._training.run()

    def state(self) -> dict[str, Any]:
        """Weights, moments and place."""
        return dict(self._training.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self._training.load_state_dict(state)  # pyrefly: ignore


def _told(batches: Batches, on_step: Callable[[int], None]) -> Batches:
    def watched(step: int) -> Batch:
        on_step(step)
        return batches(step)

    return watched


def recipe(sweep: Sweep, trial: Trial) -> Recipe:
    """The sweep's training section with the trial's rate and batch size."""
    section = sweep.training
    return Recipe(
        learning_rate=trial.question.learning_rate,
        batch_size=trial.batch_size,
        weight_decay=section.weight_decay,
        warmup=section.warmup,
        warmup_floor=section.warmup_floor,
        schedule=section.schedule,
        final_fraction=section.final_fraction,
        cooldown=section.cooldown,
        cooldown_floor=section.cooldown_floor,
        beta1=section.beta1,
        beta2=section.beta2,
        grad_clip=section.grad_clip,
        optimizer=section.optimizer,
        parametrization=section.parametrization,
        dtype=section.dtype,
        dropout=section.dropout,
    )
