"""How a CPU multiplies float32 matrices: through MKL, or through oneDNN, which may round."""

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


def onednn_keeps_float32() -> bool:
    """Whether `onednn` computes in full float32 on this CPU: so where it lacks bfloat16 units."""
    fine = torch.full((256, 256), 1 + 2.0**-12)  # bfloat16 ends at 2^-7
    with onednn():
        return bool((fine @ torch.eye(256) == fine).all())
