"""When compiling or capturing a training's step pays, by arithmetic alone. Needs no torch.

Nothing is timed for it, so a trial is computed in one way wherever it is tried again.
"""

from dataclasses import dataclass

from model.shape import Shape

KERNELS_A_BLOCK = 60
"""That torch starts for a block, forward and backward, under autocast."""
KERNELS = 60
"""For everything else in a step."""

STACKED_WIDTH = 64
"""Widest model that gains from training in a stack (measured: README.md)."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is known beforehand of a device's speed."""

    peak: float
    """FLOP/s of large products in the dtype of training."""
    reached: float
    """Share of `peak` that a step reaches whose kernels are large, one by one as torch has them."""
    launch: float
    """Seconds that starting a kernel takes at least."""
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
        peak=1e11 * threads, reached=0.6, launch=3e-6, compile_seconds=60.0, compile_gain=1.15
    )


def gpu(peak: float) -> Device:
    """A GPU of that peak. Published, not measured here.

    nanoGPT's README: 250 ms an iteration become 135 ms, "about a minute" to compile; half of that
    gain is reckoned with. Torch's eager steps reach about a quarter of the peak.
    """
    return Device(peak=peak, reached=0.25, launch=8e-6, compile_seconds=60.0, compile_gain=1.4)


def step_seconds(shape: Shape, batch_size: int, parts: int, device: Device) -> float:
    """Seconds of a step of `batch_size` sequences in `parts`, as torch computes it by itself."""
    arithmetic = shape.flops_per_step(batch_size) / (device.reached * device.peak)
    return max(arithmetic, _starting(shape, parts, device))


def compiling_pays(shape: Shape, batch_size: int, parts: int, steps: int, device: Device) -> bool:
    """Whether `steps` steps save more seconds than compiling takes."""
    whole = steps * step_seconds(shape, batch_size, parts, device)
    return whole * (1 - 1 / device.compile_gain) > device.compile_seconds


def capturing_pays(shape: Shape, batch_size: int, parts: int, device: Device) -> bool:
    """Whether starting kernels takes as long as half of a step's arithmetic, or longer.

    A CUDA graph starts them all at once; it costs a few steps' time and nothing else.
    """
    arithmetic = shape.flops_per_step(batch_size) / (device.reached * device.peak)
    return _starting(shape, parts, device) > 0.5 * arithmetic


def stacking_pays(shape: Shape) -> bool:
    """Whether trainings of `shape` on a CPU are faster as one batched model than in turn."""
    return shape.d_model <= STACKED_WIDTH


def _starting(shape: Shape, parts: int, device: Device) -> float:
    """Seconds to start every kernel of a step, one after the other."""
    return parts * (KERNELS_A_BLOCK * shape.num_layers + KERNELS) * device.launch
