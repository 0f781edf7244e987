"""Several devices that train one model: each computes its share of every batch, and the gradients
are averaged. What a group is made of is its maker's affair: nothing here starts processes.
"""

from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from model.gradient import Gradient
from model.optim import AdamW


class Group(Protocol):
    """Equal partners, of which this process is one."""

    @property
    def rank(self) -> int:
        """Which: from 0 to size - 1."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def average(self, tensor: Tensor) -> None:
        """Put the mean over all partners into `tensor`; every partner calls, in the same order."""
        ...


class TorchGroup:
    """The partners of torch's default process group, which somebody has initialized."""

    @property
    def rank(self) -> int:
        """Which: from 0 to size - 1."""
        return dist.get_rank()

    @property
    def size(self) -> int:
        """How many there are."""
        return dist.get_world_size()

    def average(self, tensor: Tensor) -> None:
        """Put the mean over all partners into `tensor`."""
        dist.all_reduce(tensor)  # gloo has no mean
        tensor /= self.size


class DataParallel:
    """A gradient to which each partner contributes that of its share of the batch.

    The optimizer's gradient is one buffer: a step costs one all-reduce, however many tensors the
    model has.
    """

    def __init__(self, gradient: Gradient, optimizer: AdamW, group: Group) -> None:
        self.gradient = gradient
        self.written = optimizer.gradient
        self.group = group

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Gradient`: the mean over the whole batch, alike on every partner."""
        loss = self.gradient(share(tokens, self.group)).clone()
        self.group.average(self.written)
        self.group.average(loss)
        return loss


def share(tokens: Tensor, group: Group) -> Tensor:
    """The sequences of a batch (batch_size, time) that this partner computes."""
    return tokens.chunk(group.size)[group.rank]


def check(batch_size: int, group: Group) -> int:
    """Sequences of a batch a partner computes.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    if batch_size % group.size:
        raise ValueError(f"a batch of {batch_size} cannot be shared out among {group.size}")
    return batch_size // group.size


def randomness(seed: int, group: Group, step: int, device: str) -> Tensor:
    """State of dropout's generator of a partner other than the first, from a report at `step` on.

    The first goes on with the run's own, which a checkpoint holds; the others' follow from these.
    """
    mixed = np.random.SeedSequence((seed, group.rank, step)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed)).get_state()
