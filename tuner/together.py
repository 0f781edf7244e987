"""Trainings side by side on one device: how fast they are together. Needs torch."""

import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from threading import Barrier

from model.probe import Build, pace
from model.shape import Shape
from model.speed import Speed

PATIENCE = 120.0
"""Seconds in which all processes must be ready to time a size: they start, and may compile."""
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


def rates(
    load: Load, count: int, seconds: float = SECONDS, patience: float = PATIENCE
) -> list[float]:
    """FLOP/s of `count` processes together, for each shape; 0 where they cannot run together.

    Whatever CUDA raises, or if it hangs, so many are not to share the device; stderr is told why.

    Args:
        load: what each process trains.
        count: of processes.
        seconds: that each shape is timed for.
        patience: seconds that a shape may take besides, to start and to compile.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's CUDA
    with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
        start, others = manager.Barrier(count), set(multiprocessing.active_children())
        begun = [pool.submit(_paces, load, seconds, start, patience) for _ in range(count)]
        until = time.monotonic() + len(load.shapes) * (patience + seconds)
        try:
            paces = [future.result(max(0.0, until - time.monotonic())) for future in begun]
        except (RuntimeError, TimeoutError) as error:  # CUDA's, a broken pool's and barrier's, too
            told = f"{type(error).__name__}: {error}"
            print(f"isoflop: {count} at once on {load.device} failed: {told}", file=sys.stderr)
            for process in set(multiprocessing.active_children()) - others:
                process.kill()  # the pool would wait for what hangs
            return [0.0] * len(load.shapes)
    steps = [sum(together) for together in zip(*paces, strict=True)]
    return [
        pace * shape.flops_per_step(load.batch_size, "exact")
        for pace, shape in zip(steps, load.shapes, strict=True)
    ]


def _paces(load: Load, seconds: float, start: Barrier, patience: float) -> list[float]:
    """Steps a second of this process, shape by shape, each begun when all are ready."""
    return [
        pace(
            load.build, shape, load.batch_size, device=load.device, memory=load.memory,
            speed=load.speed, seconds=seconds, ready=lambda: start.wait(patience),
        )
        for shape in load.shapes
    ]  # fmt: skip
