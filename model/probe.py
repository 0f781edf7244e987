"""The fastest way to compute trials on this device: found by timing, once a sweep.

A faster path counts only where it gains a tenth on the largest model, loses nothing on the
smallest, and leaves the held-out loss where float32 has it.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import nn

from model import payoff
from model.backprop import derived
from model.execution import Execution
from model.gradient import Gradient, gradient
from model.memory import Split, TooLargeError, fit
from model.optim import AdamW
from model.peak import peak_flops
from model.precision import onednn_keeps_float32
from model.recipe import Recipe
from model.shape import CountedShape, Shape
from model.speed import Attention, Dtype, Speed
from model.transformer import BasicsTransformerLM

GAIN = 0.9
"""Share of the slower way's time that a faster one may take at most."""
SAME_LOSS = 0.005
"""What bfloat16 may cost on average over `SEEDS`, nat/token."""
SEEDS = 3

Build = Callable[[Shape], nn.Module]
Way = tuple[Dtype, Attention, int]
Loss = Callable[[Dtype, int], float]
"""Held-out loss of a short training in a dtype from a seed."""


def choose(
    shapes: Sequence[Shape],
    batch_size: int,
    *,
    device: str = "cpu",
    threads: int = 1,
    memory: float = math.inf,
    dtype: Dtype | None = None,
    build: Build = BasicsTransformerLM.from_shape,
    loss: Loss,
    seconds: float = 2.0,
) -> Speed:
    """How trials of `shapes` compute fastest here.

    Args:
        shapes: the smallest and the largest model of the sweep, or one.
        batch_size: sequences a step.
        device: "cpu", "cuda", …
        threads: that a trial may take.
        memory: that a trial may take, byte.
        dtype: what was asked for; None leaves it open.
        build: the model of a shape.
        loss: decides whether bfloat16 may be taken; asked only where it is faster.
        seconds: to spend on timing, at most by about half more.
    """
    dtypes = (dtype,) if dtype else _dtypes(device)
    cpu = device == "cpu"
    # torch chooses a GPU's kernel well; a CPU's fused attention is slow in bfloat16.
    open_to_choice = cpu and not derived(_built(build, shapes[-1]), torch.device(device))
    attentions: tuple[Attention, ...] = ("fused", "explicit") if open_to_choice else ("fused",)
    counts = sorted({1, threads}) if cpu else [1]
    ways = list(product(dtypes, attentions, counts))
    if len(ways) == 1:
        return Speed(dtype=ways[0][0], why="nothing to choose")
    each = seconds / (len(ways) * len(shapes))
    took = {
        way: [_time(build, shape, batch_size, device, memory, way, each) for shape in shapes]
        for way in ways
    }
    plain = _best({way: times for way, times in took.items() if way[0] == dtypes[0]}, ways[0])
    best = _best(took, plain)
    gain = took[plain][-1] / took[best][-1]
    why = f"{gain:.2f} times as fast as {dtypes[0]} at {_name(shapes[-1])}"
    if best[0] != dtypes[0] and (cost := _cost(loss)) > SAME_LOSS:
        best, why = plain, f"{why}, but it costs {cost:.4f} nat/token"
    return Speed(dtype=best[0], attention=best[1], threads=best[2], why=why)


def _best(took: dict[Way, list[float]], usual: Way) -> Way:
    """The way that is fastest on the largest model of those that nowhere lose against `usual`."""
    usual_times = took[usual]
    better = {
        way: times[-1]
        for way, times in took.items()
        if times[-1] < GAIN * usual_times[-1] and times[0] <= usual_times[0]
    }
    return min(better, key=better.__getitem__) if better else usual


def _dtypes(device: str) -> tuple[Dtype, ...]:
    """Those worth timing, float32 first: a CPU without bfloat16 units gains nothing from it."""
    if device == "cpu" and onednn_keeps_float32():
        return ("float32",)
    return ("float32", "bfloat16")


def _cost(loss: Loss) -> float:
    """What bfloat16 costs in held-out loss, nat/token, from the same seeds."""
    return statistics.mean(loss("bfloat16", seed) - loss("float32", seed) for seed in range(SEEDS))


def _built(build: Build, shape: Shape) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build(shape)


def _time(
    build: Build,
    shape: Shape,
    batch_size: int,
    device: str,
    memory: float,
    way: Way,
    seconds: float,
) -> float:
    """Seconds of the fastest gradient on random tokens; infinite if it does not fit in memory."""
    before = torch.get_num_threads()
    torch.set_num_threads(way[2])
    try:
        call, _, tokens = _training(build, shape, batch_size, device, memory, way)
        return _fastest(call, tokens, seconds)
    except TooLargeError:
        return math.inf
    finally:
        torch.set_num_threads(before)


def pace(
    build: Build,
    shape: Shape,
    batch_size: int,
    *,
    device: str,
    memory: float,
    speed: Speed,
    seconds: float,
    ready: Callable[[], object] = lambda: None,
) -> float:
    """Steps a second of a training on random tokens, the first three not counted.

    Args:
        build: the model of a shape.
        shape: of the model.
        batch_size: sequences a step.
        device: "cpu", "cuda", …
        memory: that the training may take, byte.
        speed: how it computes.
        seconds: to go on for.
        ready: called once the first steps are done; what is timed begins when it returns.

    Raises:
        TooLargeError: not even one sequence fits in `memory`.
    """
    way = (speed.dtype, speed.attention, speed.threads)
    call, optimizer, tokens = _training(build, shape, batch_size, device, memory, way)
    torch.set_num_threads(speed.threads)
    for _ in range(3):
        call(tokens).item()  # waits for the device
        optimizer.step(1.0)
    ready()
    begin, steps = time.perf_counter(), 0
    while True:
        loss = call(tokens)
        optimizer.step(1.0)
        steps += 1
        if time.perf_counter() > begin + seconds:
            loss.item()
            return steps / (time.perf_counter() - begin)


def _training(
    build: Build, shape: Shape, batch_size: int, device: str, memory: float, way: Way
) -> tuple[Gradient, AdamW, torch.Tensor]:
    """The gradient of a model of `shape`, its optimizer, and a batch of random tokens."""
    dtype, attention, _ = way
    gpu = device != "cpu"
    split = fit(shape, batch_size, memory, dtype, fused=gpu)
    model = _built(build, shape).to(device)
    recipe = Recipe(learning_rate=1e-4, batch_size=batch_size, dtype=dtype)
    execution = Execution(
        device=device,
        attention=attention,
        micro_batch_size=split.micro_batch_size,
        recompute=split.recompute,
        logit_rows=split.logit_rows,
        captured=gpu and _captured(shape, batch_size, split, payoff.gpu(_peak(dtype, device))),
    )
    optimizer = AdamW(model, recipe, shape)
    size = (batch_size, shape.context_length + 1)
    tokens = np.random.default_rng(1).integers(0, shape.vocab_size, size)
    call = gradient(model, optimizer, recipe, execution)
    return call, optimizer, torch.from_numpy(tokens).to(device)


@cache
def _peak(dtype: Dtype, device: str) -> float:
    return peak_flops(dtype, device)


def _captured(shape: Shape, batch_size: int, split: Split, device: payoff.Device) -> bool:
    """Whether a trial would be: what starting kernels costs must not be taken for computing."""
    own = isinstance(shape, CountedShape)
    parts = batch_size // split.micro_batch_size
    return not own and payoff.capturing_pays(shape, batch_size, parts, device)


def _fastest(
    call: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, seconds: float
) -> float:
    """Seconds of the fastest call that fits in `seconds`, the first two not counted."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call(tokens).item()  # waits for the device
        times.append(time.perf_counter() - begin)
    return min(times[2:])


def _name(shape: Shape) -> str:
    return f"{shape.num_layers}x{shape.d_model}"
