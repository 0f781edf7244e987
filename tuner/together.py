"""Trainings side by side on one device: how fast they are together. Needs torch."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from threading import Barrier, BrokenBarrierError

import torch

from model.probe import Build, pace
from model.shape import Shape
from model.speed import Speed

PATIENCE = 120.0
"""Seconds that a process waits for the others to be ready."""
SECONDS = 2.0
"""That each size is timed for."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What each process trains."""

    build: Build
    shapes: Sequence[Shape]
    """One after the other."""
    batch_size: int
    """Sequences a step."""
    device: str
    speed: Speed
    memory: float
    """Of one process, byte."""


def rates(load: Load, count: int, seconds: float = SECONDS) -> list[float]:
    """FLOP/s of `count` processes together, for each shape; 0 where one ran out of memory."""
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's CUDA
    with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
        start = manager.Barrier(count)
        begun = [pool.submit(_paces, load, seconds, start) for _ in range(count)]
        try:
            paces = [future.result() for future in begun]
        except (torch.OutOfMemoryError, BrokenProcessPool, BrokenBarrierError):
            return [0.0] * len(load.shapes)
    steps = [sum(together) for together in zip(*paces, strict=True)]
    return [
        pace * shape.flops_per_step(load.batch_size, "exact")
        for pace, shape in zip(steps, load.shapes, strict=True)
    ]


def _paces(load: Load, seconds: float, start: Barrier) -> list[float]:
    """Steps a second of this process, shape by shape, each begun when all are ready."""
    return [
        pace(
            load.build, shape, load.batch_size, device=load.device, memory=load.memory,
            speed=load.speed, seconds=seconds, ready=lambda: start.wait(PATIENCE),
        )
        for shape in load.shapes
    ]  # fmt: skip
