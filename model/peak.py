"""The fastest a device multiplies matrices: the denominator of `mfu`."""

import time
from contextlib import nullcontext

import torch
from torch import Tensor

from model.devices import known
from model.precision import onednn, onednn_keeps_float32
from model.speed import Dtype

SIZE = {"cpu": 1024}
"""Rows of the square matrices by kind of device; elsewhere 8192."""


def peak_flops(dtype: Dtype = "float32", device: str = "cpu", seconds: float = 1.0) -> float:
    """FLOP/s of large matrix products on `device`, with torch's current number of threads.

    A GPU in `model.devices` has its data sheet's figure. Any other device is measured for about
    `seconds`: the best of many, so that a busy neighbor lowers it little. On a CPU, float32 goes
    the fastest way that does not round.

    Args:
        dtype: "float32" or "bfloat16", of the factors.
        device: "cpu", "cuda", …
        seconds: to spend measuring.
    """
    if device.startswith("cuda"):
        published = known(torch.cuda.get_device_name(device))
        if published is not None:
            return published.peak(dtype)
    exact = dtype == "float32" and device == "cpu" and onednn_keeps_float32()
    ways = (nullcontext, onednn) if exact else (nullcontext,)
    size = SIZE.get(device, 8192)
    factor = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    best = 0.0
    for way in ways:
        with way():
            best = max(best, 2 * size**3 / _fastest(factor, seconds / len(ways)))
    return best


def _fastest(factor: Tensor, seconds: float) -> float:
    """Seconds of the fastest of the products of `factor` with itself that fit in `seconds`."""
    out = factor @ factor
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(factor, factor, out=out)
        if factor.is_cuda:
            torch.cuda.synchronize(factor.device)
        times.append(time.perf_counter() - begin)
    return min(times)
