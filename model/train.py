"""The loop up to a number of steps: takes batches, yields `Progress`; state in, state out."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.evaluation import Evaluation
from model.execution import Execution
from model.gradient import Gradient, gradient
from model.optim import AdamW, optimizer
from model.parallel import DataParallel, Group, check, randomness
from model.parametrization import initialize
from model.precision import flushed
from model.progress import DIVERGED_LOSS, Progress
from model.recipe import Recipe, rate
from model.shape import Shape
from model.transformer import BasicsTransformerLM

if TYPE_CHECKING:
    from model.sharded import ShardedAdamW

CPU = Execution()

Tokens = NDArray[np.integer]

WATCH = 100
"""Steps between two looks at the loss for divergence; each waits for the device."""


class State(TypedDict):
    """A training between two reports."""

    step: int
    seconds: float
    evaluations: int
    diverged: bool
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: Tensor


class Training:
    """One run of a recipe over exactly `steps` steps.

    Args:
        shape: of the model.
        recipe: rates, batch size and the rest.
        steps: optimizer steps of the whole run; the schedule spans them.
        report_at: steps after which to evaluate and yield; the last is `steps`.
        start: steps that are another run's, too, whose state there this one may be handed: all
            that is reported counts from there, whether it was or not.
        batches: step, counted from 0, to its tokens (batch_size, context_length + 1).
        held_out: evaluation batches, each (n, context_length + 1).
        held_out_documents: which document each of their predictions belongs to, for the standard
            error: see `model.evaluation.Evaluation`.
        seed: of first weights and dropout.
        flops_per_step: what a step counts for in `Progress.flops`.
        execution: where and how to compute.
        model: what to train instead of the decoder of `shape`, initialized by whoever made it:
            tokens (batch, time) to logits (batch, time, vocab_size).
        group: partners that train the same, each given the same arguments but its device; every
            batch is shared out among them. None trains alone.

    Raises:
        ValueError: `report_at` does not rise from beyond `start` to end at `steps`, fewer than two
            documents are held out, or the micro-batch does not divide the batch or a partner's
            share of it; in `run`, a batch has another shape.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        recipe: Recipe,
        steps: int,
        report_at: Sequence[int],
        batches: Callable[[int], Tokens],
        held_out: Sequence[Tokens],
        held_out_documents: Sequence[Tokens] | None = None,
        seed: int,
        flops_per_step: int,
        start: int = 0,
        execution: Execution = CPU,
        model: nn.Module | None = None,
        group: Group | None = None,
    ) -> None:
        _check(report_at, steps, start)
        for_weights, for_dropout = np.random.SeedSequence(seed).spawn(2)
        if model is None:
            with torch.random.fork_rng(devices=[]):  # torch draws first values of its own
                model = BasicsTransformerLM.from_shape(shape, recipe.dropout)
            initialize(model, shape.num_layers, recipe.parametrization, _generator(for_weights))
        self.device = torch.device(execution.device)
        self.shape = shape
        self.recipe = recipe
        self.steps = steps
        self.report_at = report_at
        self.start = start
        self.batches = batches
        self.flops_per_step = flops_per_step
        self.model = model.to(self.device)
        self.group = group
        self.sharded = execution.sharded
        share = recipe.batch_size if group is None else check(recipe.batch_size, group)
        self.mover = _mover(self.model, recipe, shape, sharded=execution.sharded)
        self._evaluate = Evaluation(held_out, held_out_documents, self.device)
        self.execution = execution
        self.parts = execution.parts(share)
        """Micro-batches in a batch, or in this partner's share of one."""
        self._prepared = not (execution.compiled or execution.captured)
        self.preparing_seconds = 0.0
        """Spent on compiling and capturing; in no progress's seconds, and so in no rate or MFU."""
        self._seed = seed
        self._random = _generator(for_dropout, execution.device).get_state()
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._step = 0
        self._reported = 0
        self._seconds = 0.0
        self._evaluations = 0
        self._diverged = False

    @property
    def optimizer(self) -> AdamW:
        """What moves weights that are whole."""
        assert isinstance(self.mover, AdamW)
        return self.mover

    @cached_property
    def _gradient(self) -> Gradient:
        if self.group is None:
            return gradient(self.model, self.optimizer, self.recipe, self.execution)
        share = replace(self.recipe, batch_size=check(self.recipe.batch_size, self.group))
        if not isinstance(self.mover, AdamW):
            return _sharded().ShardedGradient(
                self.model, self.mover, share, self.execution, self.group
            )
        alone = gradient(self.model, self.optimizer, share, self.execution)
        return DataParallel(alone, self.optimizer, self.group)

    def run(self) -> Iterator[Progress]:
        """Train, yielding at each step of `report_at` still ahead; the last one is `final`.

        A run whose loss or weights cease to be finite yields its last progress early, `diverged`.
        """
        if self._step < self.start:
            self._advance(self.start)
        while (stop := self.next_report) is not None:
            self._advance(stop)
            yield self.report()

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    @property
    def next_report(self) -> int | None:
        """The next step of `report_at`; None once the run has ended."""
        ahead = (stop for stop in self.report_at if stop > self._step)
        return None if self._diverged else next(ahead, None)

    def state_dict(self) -> State:
        """What `load_state_dict` needs to go on bit for bit (on CPU); take it between reports.

        Of a group every partner takes it, and all get the same.
        """
        weights = _sharded().whole_state(self.model) if self.sharded else self.model.state_dict()
        return State(
            step=self._step,
            seconds=self._seconds,
            evaluations=self._evaluations,
            diverged=self._diverged,
            model={name: tensor.clone() for name, tensor in weights.items()},
            optimizer={n: tensor.clone() for n, tensor in self.mover.state_dict().items()},
            random=self._random,
        )

    def load_state_dict(self, state: State) -> None:
        """Go on where the training that gave `state` stood; both were made with equal arguments."""
        if self.sharded:
            _sharded().load_whole_state(self.model, state["model"])
        else:
            self.model.load_state_dict(state["model"])
        self.mover.load_state_dict(state["optimizer"])
        self._random = state["random"]
        self._step = self._reported = state["step"]
        self._seconds = state["seconds"]
        self._evaluations = state["evaluations"] if self._step > self.start else 0
        self._diverged = state["diverged"]

    def _tensor(self, tokens: Tokens) -> Tensor:
        # Copied: tokens may lie in a read-only memory map. Into pinned memory for a GPU, which
        # takes them while it computes what it was told before; torch uses the place again then.
        cuda = self.device.type == "cuda"
        host = torch.empty(tokens.shape, dtype=torch.int64, pin_memory=cuda)
        host.numpy()[...] = tokens
        return host.to(self.device, non_blocking=True)

    def batch(self) -> Tensor:
        """Tokens of the next step."""
        tokens = self._tensor(self.batches(self._step))
        expected = (self.recipe.batch_size, self.shape.context_length + 1)
        if tokens.shape != expected:
            raise ValueError(
                f"batches({self._step}) must be (batch_size, context_length + 1) = {expected},"
                f" got {tuple(tokens.shape)}"
            )
        return tokens

    def move_to(self, buffers: Sequence[Tensor]) -> None:
        """Go on with weights, gradient and moments in other `buffers`, (weights,) each."""
        self.optimizer.move(buffers)
        self.__dict__.pop("_gradient", None)  # which writes to the old ones
        self._prepared = not (self.execution.compiled or self.execution.captured)

    def begin(self) -> None:
        """Set out for the next report."""
        self.model.train()
        self._loss_sum.zero_()
        self._reported = self._step

    def move(self, loss: Tensor) -> None:
        """Take a step: the optimizer's gradient is that of the batch, which has this `loss`."""
        self._loss_sum += loss
        self.mover.step(rate(self._step, self.steps, self.recipe))
        self._step += 1

    def spend(self, seconds: float) -> None:
        """Count `seconds` as spent on steps."""
        self._seconds += seconds

    def _advance(self, stop: int) -> None:
        """Train until `stop` steps are done or the loss is no number."""
        self.begin()
        self._prepare()
        loading = 0.0
        begin = self.clock()
        with self._randomness() as source, flushed():
            while self._step < stop and not self.lost():
                before = time.perf_counter()
                tokens = self.batch()
                loading += time.perf_counter() - before
                self.move(self._gradient(tokens))
            self._random = source.get_rng_state()
        # A GPU trains on while the next batch is loaded: only what it waits for is in the way.
        self.spend(self.clock() - begin - (loading if self.device.type == "cpu" else 0.0))

    def _prepare(self) -> None:
        """Compile and capture before the clock runs, by a gradient that moves nothing."""
        if self._prepared:
            return
        begin = self.clock()
        size = (self.recipe.batch_size, self.shape.context_length + 1)
        tokens = torch.zeros(size, dtype=torch.int64, device=self.device)
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        with self._randomness():
            self._gradient(tokens)
        for buffer, before in buffers:
            buffer.copy_(before)
        self._prepared = True
        self.preparing_seconds = self.clock() - begin

    def clock(self) -> float:
        """Seconds, once the device has done all it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def _randomness(self) -> Iterator[ModuleType]:
        """Torch's own randomness on the device (dropout) set to the run's, and back at the end."""
        cuda = self.device.type == "cuda"
        source = torch.cuda if cuda else torch.random
        if self.group is not None and self.group.rank:
            self._random = randomness(self._seed, self.group, self._step, self.device.type)
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            source.set_rng_state(self._random)
            yield source

    def lost(self) -> bool:
        """Whether, at a step at which it is looked at, the loss is no number."""
        looked_at = self._step % WATCH == 0 and self._step > self._reported
        return looked_at and not math.isfinite(self._loss_sum.item())

    def report(self) -> Progress:
        """Evaluate and say where the run stands."""
        steps = self._step - self._reported
        train_loss = self._loss_sum.item() / steps
        found = self._evaluate(self.model)
        self._diverged = not (math.isfinite(train_loss) and found.mean < DIVERGED_LOSS)
        sequences = self._step * self.recipe.batch_size
        self._evaluations += self._evaluate.sequences
        return Progress(
            step=self._step,
            tokens=sequences * self.shape.context_length,
            flops=self._step * self.flops_per_step,
            flops_evaluation=self._evaluations
            * self.flops_per_step
            // (3 * self.recipe.batch_size),
            loss=DIVERGED_LOSS if self._diverged else found.mean,
            loss_se=0.0 if self._diverged else found.se,
            train_loss=DIVERGED_LOSS if self._diverged else train_loss,
            learning_rate=self.recipe.learning_rate * rate(self._step - 1, self.steps, self.recipe),
            seconds=self._seconds,
            final=self._diverged or self._step == self.steps,
            diverged=self._diverged,
        )


def _mover(
    model: nn.Module, recipe: Recipe, shape: Shape, *, sharded: bool
) -> "AdamW | ShardedAdamW":
    """What moves the weights, which are split over the group first where they are to be."""
    if not sharded:
        return optimizer(model, recipe, shape)
    _sharded().split(model)
    return _sharded().ShardedAdamW(model, recipe, shape)


def _sharded() -> ModuleType:
    from model import sharded  # noqa: PLC0415  loads FSDP, which few trainings need

    return sharded


def _check(report_at: Sequence[int], steps: int, start: int) -> None:
    faults = []
    if not report_at or list(report_at) != sorted(set(report_at)) or report_at[-1] != steps:
        faults.append(f"report_at must rise to {steps}, the run's steps, got {list(report_at)}")
    elif report_at[0] <= start:
        faults.append(f"report_at must begin at step {start + 1} or later, got {report_at[0]}")
    if faults:
        raise ValueError("; ".join(faults))


def _generator(stream: np.random.SeedSequence, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(int(stream.generate_state(1, np.uint64)[0]))
