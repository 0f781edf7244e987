"""How a CPU computes in float32: products through MKL or oneDNN, which may round; tiny numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def onednn() -> Iterator[None]:
    """Give float32 matrix products to oneDNN, free to use bfloat16 where the CPU has units for it.

    torch has no other switch that takes them from MKL, whose kernels reach half of an AMD core's
    speed (measured: tests/benchmarks/throughput.py).
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def flushed() -> Iterator[None]:
    """Take numbers too small to be normal floats for zero, in this thread.

    A training at too high a rate makes them by the thousand, and each takes the processor many
    times as long: a fifth of a stack's time (measured: tests/benchmarks/throughput.py, 2x64).
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def onednn_keeps_float32() -> bool:
    """Whether `onednn` computes in full float32 on this CPU: so where it lacks bfloat16 units."""
    fine = torch.full((256, 256), 1 + 2.0**-12)  # bfloat16 ends at 2^-7
    with onednn():
        return bool((fine @ torch.eye(256) == fine).all())
