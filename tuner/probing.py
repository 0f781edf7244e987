"""Finds a sweep's slot, in the process and on the device where a trial would run. Needs torch."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from model import custom
from model.compiling import complaint, complaint_between
from model.device import device_name, memory_bytes
from model.memory import training_bytes
from model.peak import peak_flops
from model.probe import SEEDS, Build, choose
from model.shape import CountedShape, Shape
from model.speed import Dtype, Speed
from model.transformer import BasicsTransformerLM
from tuner import packing, plan, space, together
from tuner.backends.contract import Job
from tuner.backends.train import TrainRun, device
from tuner.config import Sweep
from tuner.kernels import Kernels, kernels
from tuner.question import Cell, Question
from tuner.sections import Resources
from tuner.slot import Slot
from tuner.storage import Place
from tuner.together import Load

STEPS = (20, 100)
"""Fewest and most steps of a training that shows what a dtype costs."""
SHARE = 0.001
"""Of the sweep's FLOPs that all of these together take, beyond their fewest steps."""
HELD_OUT_TOKENS = 16_384
"""That they are evaluated on, at most: both dtypes on the same, so that few tell a difference."""


def find(sweep: Sweep, vocab_size: int, corpus: Path) -> Slot:
    """What one trial of `sweep` has here, and how it computes fastest without a worse loss.

    Raises:
        ConfigError: the sweep asks for a GPU, and there is none.
    """
    resources = sweep.resources
    place, threads = device(resources), max(1, int(resources.cpus_per_trial))
    memory = _memory(resources, place)
    smallest, largest = _ends(sweep, vocab_size)
    asked = sweep.training.dtype
    speed = choose(
        [smallest, largest] if smallest != largest else [largest],
        _batch_size(sweep),
        device=place,
        threads=threads,
        memory=memory,
        dtype=None if asked == "auto" else asked,
        build=_build(sweep),
        loss=_Loss(sweep, vocab_size, corpus, memory),
    )
    trials = _trials_per_gpu(sweep, vocab_size, [smallest, largest], memory, speed)
    memory = _memory(resources, place, trials)
    found = Slot(speed=speed, memory=memory, trials_per_gpu=trials)
    return replace(found, speed=_with_compiler(sweep, vocab_size, found))


def _with_compiler(sweep: Sweep, vocab_size: int, slot: Slot) -> Speed:
    """The speed, and whether compiling works, tried where it would pay for a planned trial.

    On a GPU it is tried anyway: what pays is known once the peak is.
    """
    speed, place = replace(slot.speed, compiles=True), device(sweep.resources)
    asked = replace(slot, speed=speed)
    wanted = place != "cpu" or any(k.compiled for k in _planned(sweep, vocab_size, asked))
    if not wanted:
        return slot.speed
    plain = place == "cpu" and _ends(sweep, vocab_size)[1].plain and not sweep.training.dropout
    if not (told := complaint_between(speed.dtype) if plain else complaint(place)):
        return speed
    if not plain:  # of a compiler that would be nice to have the doctor tells
        warnings.warn(f"torch.compile fails here, so no trial uses it ({told})", stacklevel=2)
    return replace(slot.speed, why=f"{slot.speed.why}; compiling fails: {told}")


def _planned(sweep: Sweep, vocab_size: int, slot: Slot) -> Iterator[Kernels]:
    """How the steps of the planned trials would come about."""
    for level in plan.plan(sweep, vocab_size).budgets:
        for size in level.shapes:
            cell = Cell(budget=level.budget, size=size, number=0, seed=0)
            for trial in space.largest(sweep, cell, vocab_size):
                yield kernels(sweep, trial, slot)


def peaks(sweep: Sweep, speed: Speed) -> dict[str, float]:
    """FLOP/s of matrix products here, as trials compute them, by the device's name."""
    place = device(sweep.resources)
    torch.set_num_threads(speed.threads)
    return {device_name(place): peak_flops(speed.dtype, place)}


def _memory(resources: Resources, place: str, trials_per_gpu: int = 1) -> float:
    """Bytes of one trial: of a GPU its share, of a machine that of the cores it takes."""
    whole, cores = memory_bytes(place), os.cpu_count() or 1
    if place == "cpu":
        return whole * min(1.0, max(1.0, resources.cpus_per_trial) / cores)
    return packing.share(whole, trials_per_gpu / min(1.0, resources.gpus_per_trial))


def _trials_per_gpu(
    sweep: Sweep, vocab_size: int, shapes: Sequence[Shape], memory: float, speed: Speed
) -> int:
    """Trials that share a GPU: as written, or as many as are measured to be worth it."""
    resources = sweep.resources
    if resources.trials_per_gpu != "auto":
        return resources.trials_per_gpu
    if resources.gpus_per_trial != 1 or resources.devices != 1:
        return 1
    alone = Slot(speed=speed, memory=memory, peaks=peaks(sweep, speed))
    if resources.stack > 1 and any(k.stacked for k in _planned(sweep, vocab_size, alone)):
        return 1  # a stack fills what would be shared
    batch_size = _batch_size(sweep)
    needed = training_bytes(shapes[-1], _batch_size(sweep, max), speed.dtype, fused=True)

    def rates(count: int) -> list[float]:
        load = Load(
            build=_build(sweep), shapes=shapes, batch_size=batch_size, device="cuda", speed=speed,
            memory=packing.share(memory, count),
        )  # fmt: skip
        return together.rates(load, count)

    torch.cuda.empty_cache()  # what was timed here stays in this process else
    return packing.best(packing.allowed(needed, memory), rates)


def _ends(sweep: Sweep, vocab_size: int) -> tuple[Shape, Shape]:
    """The smallest and the largest model that is planned."""
    stages = plan.plan(sweep, vocab_size).stages
    sizes = {size for stage in stages for size in stage.shapes}
    shapes = [space.shape(sweep, size, vocab_size) for size in sizes]
    shapes.sort(key=lambda shape: shape.params_non_embedding)
    return shapes[0], shapes[-1]


def _batch_size(sweep: Sweep, end: Callable[[Sequence[int]], int] = min) -> int:
    """Sequences a step, where there are fewest of them, or at another end."""
    return end(sweep.search.batch_size or [sweep.batch_size(level) for level in sweep.levels])


def _build(sweep: Sweep) -> Build:
    """A model of the sweep, of any shape."""
    if sweep.model:
        return partial(_own, sweep.model)
    return partial(BasicsTransformerLM.from_shape, dropout=sweep.training.dropout)


def _own(reference: str, shape: Shape) -> nn.Module:
    return custom.build(reference, shape.asked if isinstance(shape, CountedShape) else shape, 0)


class _Loss:
    """Held-out loss of short trainings: the smallest budget's middle size on the sweep's corpus."""

    def __init__(self, sweep: Sweep, vocab_size: int, corpus: Path, memory: float) -> None:
        counted = plan.plan(sweep, vocab_size)
        fewer = min(HELD_OUT_TOKENS, sweep.data.held_out_tokens)
        data = sweep.data.model_copy(update={"held_out_tokens": fewer})
        first, rate = counted.budgets[0], space.middle(sweep).learning_rate
        question = Question(
            budget=first.budget, size=first.shapes[len(first.shapes) // 2], learning_rate=rate,
            number=0, seed=0, batch_size=_batch_size(sweep) if sweep.search.batch_size else None,
        )  # fmt: skip
        trial = space.trial(sweep, question, vocab_size)
        affordable = SHARE * counted.cap / (2 * SEEDS * trial.flops_per_step)
        steps = min(trial.steps, max(STEPS[0], min(STEPS[1], int(affordable))))
        self._trial = replace(trial, steps=steps, report_steps=(steps,))
        self._job = Job(
            sweep=sweep.model_copy(update={"data": data}), vocab_size=vocab_size, corpus=corpus,
            checkpoints=Place.of(corpus), slot=Slot(memory=memory),
        )  # fmt: skip

    def __call__(self, dtype: Dtype, seed: int) -> float:
        job = replace(self._job, slot=replace(self._job.slot, speed=Speed(dtype=dtype)))
        question = replace(self._trial.question, seed=seed)
        (last,) = TrainRun(job, replace(self._trial, question=question))
        return last.loss
