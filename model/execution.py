"""How a training is computed: what moves its speed and memory, and no result beyond rounding.

Needs no torch.
"""

from dataclasses import dataclass

from model.speed import Attention


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how steps run."""

    device: str = "cpu"
    micro_batch_size: int | None = None
    """Sequences whose gradient is computed at once, a divisor of the batch; the gradients of a
    batch's parts are added up. None takes the whole batch."""
    recompute: bool = False
    """Keep a block's input alone and compute the block again on the way back."""
    logit_rows: int | None = None
    """Tokens whose logits are held at once, where the model is the shipped decoder; None: all."""
    attention: Attention = "fused"
    """torch's kernel, or scores written down; the gradient that is written out has its own."""
    sharded: bool = False
    """Split weights, gradients and moments over the group that trains (`model.sharded`)."""
    compiled: bool = False
    """Let `torch.compile` have the model, or, where its gradient is written out, a C++ compiler
    what lies between the products (on one thread); where that fails, a warning, and it trains
    without."""
    captured: bool = False
    """Replay the gradient as a CUDA graph, on a GPU where it draws no random numbers."""

    def parts(self, batch_size: int) -> int:
        """Micro-batches in a batch.

        Raises:
            ValueError: the micro-batch does not divide it.
        """
        size = self.micro_batch_size or batch_size
        if not 1 <= size <= batch_size or batch_size % size:
            raise ValueError(f"micro_batch_size must divide batch_size, got {size}, {batch_size}")
        return batch_size // size
