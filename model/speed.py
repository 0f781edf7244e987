"""What is chosen once a sweep, before its first trial, of how trials compute. Needs no torch."""

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "bfloat16"]
Attention = Literal["fused", "explicit"]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How every trial of a sweep computes."""

    dtype: Dtype = "float32"
    """Of matrix products in training."""
    attention: Attention = "fused"
    """torch's kernel, or scores written down; the gradient that is written out has its own."""
    threads: int = 1
    """Of one trial, on a CPU."""
    compiles: bool = False
    """A compiler was tried, since it pays for some trial, and works."""
    why: str = ""
    """What was measured."""
