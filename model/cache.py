"""Keys and values of tokens already read, so that generating reads each token once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where tokens stand that are read now."""

    of: Tensor
    """Each token's place in its sequence, (batch, time)."""
    seen: Tensor
    """Which places it attends to, (batch, 1, time, width)."""

    @classmethod
    def at(cls, places: Tensor) -> "Places":
        """Causal ones: a token attends to itself and all before it."""
        width = int(places.max()) + 1
        seen = torch.arange(width, device=places.device) <= places[..., None]
        return cls(of=places, seen=seen[:, None])


class Memory:
    """Keys and values of one layer, (batch, head, context_length, head_size) each."""

    def __init__(self, shape: Shape, batch: int, like: Tensor) -> None:
        size = (batch, shape.num_heads, shape.context_length, shape.head_size)
        self.keys, self.values = like.new_zeros(size), like.new_zeros(size)

    def add(self, keys: Tensor, values: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Keep those of new tokens (batch, head, time, head_size); all that any of them sees."""
        index = places.of[:, None, :, None].expand_as(keys)
        width = places.seen.shape[-1]
        self.keys.scatter_(2, index, keys)
        self.values.scatter_(2, index, values)
        return self.keys[:, :, :width], self.values[:, :, :width]


class Remembers(nn.Module):
    """A decoder that can go on from what it has read."""

    lm_head: nn.Linear
    """What `extend` gives to logits."""

    def memory(self, batch: int) -> list[Memory]:
        """Room for what `extend` keeps of `batch` sequences, layer by layer."""
        raise NotImplementedError

    def extend(self, tokens: Tensor, places: Tensor, memory: Sequence[Memory]) -> Tensor:
        """What the head reads (batch, time, d_model), in eval mode, of tokens that stand at
        `places`, both (batch, time), beside those that `memory` holds; they are added to it.

        What stood there before is forgotten, what stands behind them is not looked at.
        """
        raise NotImplementedError
