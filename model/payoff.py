"""When compiling, capturing or stacking a training's step pays, by arithmetic. Needs no torch.

Nothing is timed for it, so a trial is computed in one way wherever it is tried again.
"""

from dataclasses import dataclass

from model.shape import Shape

KERNELS_A_BLOCK = 60
"""That torch starts for a block, forward and backward, under autocast."""
KERNELS = 60
"""For everything else in a step."""

STACKED_WIDTH = 32
"""Widest model that gains from training in a stack, over compiled alone (measured: README.md)."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is known beforehand of a device's speed."""

    peak: float
    """FLOP/s of large products in the dtype of training."""
    reached: float
    """Share of `peak` that a step reaches whose kernels are large, one by one as torch has them."""
    launch: float
    """Seconds that starting a kernel takes at least."""
    replayed: float
    """The same in a step that is captured."""
    compile_seconds: float
    """That `torch.compile` takes for a shape it has not seen."""
    compile_gain: float
    """How many times as fast it makes a step."""


def cpu(threads: int) -> Device:
    """A processor with so many threads a trial.

    100 GFLOP/s a core, compilation in 50 to 74 s and 1.0 to 1.25 times as fast by it: measured on
    two machines in November 2026 with torch 2.13; the share is README.md's at width 128.
    """
    return Device(
        peak=1e11 * threads,
        reached=0.6,
        launch=3e-6,
        replayed=3e-6,
        compile_seconds=60.0,
        compile_gain=1.15,
    )


def gpu(peak: float) -> Device:
    """A GPU of that peak.

    On an H200 in November 2026 with torch 2.11 a kernel was started every 26 µs under autocast,
    every 4.3 µs in a captured step, a 6x512 on 16,384 tokens reached a fifth of the peak, compiling
    took 12 to 35 s and made a captured 4x128 1.7 times as fast. nanoGPT's README has 250 ms become
    135 ms by it.
    """
    return Device(
        peak=peak,
        reached=0.2,
        launch=2.5e-5,
        replayed=4.3e-6,
        compile_seconds=35.0,
        compile_gain=1.4,
    )


def step_seconds(shape: Shape, batch_size: int, parts: int, device: Device) -> float:
    """Seconds of a step of `batch_size` sequences in `parts`, uncompiled, captured if that pays."""
    captured = capturing_pays(shape, batch_size, parts, device)
    each = device.replayed if captured else device.launch
    return max(_arithmetic(shape, batch_size, device), _kernels(shape, parts) * each)


def compiling_pays(shape: Shape, batch_size: int, parts: int, steps: int, device: Device) -> bool:
    """Whether `steps` steps save more seconds than compiling takes."""
    whole = steps * step_seconds(shape, batch_size, parts, device)
    return whole * (1 - 1 / device.compile_gain) > device.compile_seconds


def capturing_pays(shape: Shape, batch_size: int, parts: int, device: Device) -> bool:
    """Whether starting kernels takes as long as half of a step's arithmetic, or longer.

    A CUDA graph starts them all at once; it costs a few steps' time and nothing else.
    """
    starting = _kernels(shape, parts) * device.launch
    return starting > 0.5 * _arithmetic(shape, batch_size, device)


def stacking_pays(shape: Shape) -> bool:
    """Whether trainings of `shape` on a CPU are faster as one batched model than in turn."""
    return shape.d_model <= STACKED_WIDTH


def stacking_pays_on_gpu(shape: Shape, batch_size: int, device: Device) -> bool:
    """Whether a captured step's kernels take longer to start than to compute: each has room for
    more."""
    return _kernels(shape, 1) * device.replayed > _arithmetic(shape, batch_size, device)


def _arithmetic(shape: Shape, batch_size: int, device: Device) -> float:
    """Seconds of a step's products."""
    return shape.flops_per_step(batch_size) / (device.reached * device.peak)


def _kernels(shape: Shape, parts: int) -> int:
    """That a step starts, one after the other."""
    return parts * (KERNELS_A_BLOCK * shape.num_layers + KERNELS)
