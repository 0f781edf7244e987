"""Several trainings of one shape in step: one batched gradient, everything else each its own.

Each member keeps its rate, schedule, seed, batches, optimizer and reports, and can be dropped; what
it reports is what it would alone, but for rounding.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from model.backprop import derived
from model.precision import flushed
from model.progress import Progress
from model.stacked import StackedBackprop
from model.train import Training


class Stack:
    """Trainings that advance together.

    Args:
        members: of one shape and batch size, plain decoders in float32 on a CPU, without dropout,
            each batch in one part. They may stand at any step, and have any number of steps.

    Raises:
        ValueError: `stackable` says no.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        if not stackable(members):
            raise ValueError(
                "members must be plain decoders in float32 on a CPU, of one shape, batch size and "
                "parametrization, each batch in one part"
            )
        self.members: dict[int, Training] = dict(enumerate(members))
        """Those that train on, by their place in the sequence given."""
        self._gradient: StackedBackprop | None = None

    def run(self) -> Iterator[dict[int, Progress]]:
        """Train, yielding what members report as they reach it, by their place.

        A member that is done, or whose loss is no number, leaves. Between two yields members may
        be dropped, and their states taken.
        """
        for place, member in list(self.members.items()):
            if member.next_report is None:
                self.drop(place)
            member.begin()
        while self.members:
            found = {place: self.members[place].report() for place in self._advance()}
            for place, progress in found.items():
                self.members[place].begin()
                if progress.final:
                    self.drop(place)
            yield found

    def drop(self, place: int) -> None:
        """Train that member no longer: its share of memory and time goes to nobody."""
        del self.members[place]
        self._gradient = None

    def _advance(self) -> list[int]:
        """Step until members have come to a report, or to a loss that is no number: which."""
        members = list(self.members.values())
        stops = {place: member.next_report for place, member in self.members.items()}
        gradient = self._gradient or self._gather(members)
        loading, begin = 0.0, time.perf_counter()
        due: list[int] = []
        with flushed():
            while not due:
                before = time.perf_counter()
                tokens = torch.stack([member.batch() for member in members])
                loading += time.perf_counter() - before
                losses = gradient(tokens)
                for member, loss in zip(members, losses, strict=True):
                    member.move(loss)
                due = [p for p, m in self.members.items() if m.step == stops[p] or m.lost()]
        each = (time.perf_counter() - begin - loading) / len(members)
        for member in members:
            member.spend(each)
        return due

    def _gather(self, members: Sequence[Training]) -> StackedBackprop:
        """Weights, gradients and moments of all members in one buffer, and what reads it."""
        optimizers = [member.optimizer for member in members]
        buffers = torch.empty(4, len(members), len(optimizers[0].weights))
        for optimizer, place in zip(optimizers, buffers.unbind(1), strict=True):
            optimizer.move(place)
        first = members[0]
        weights, gradients = (self._named(first, buffer) for buffer in buffers[:2])
        self._gradient = StackedBackprop(first.shape, first.recipe.batch_size, weights, gradients)
        return self._gradient

    @staticmethod
    def _named(first: Training, buffer: Tensor) -> Mapping[str, Tensor]:
        """`buffer` (members, weights) by weight, (members, …) each."""
        like = first.optimizer
        pieces = buffer.split([weight.numel() for weight in like.parameters], dim=1)
        return {
            name: piece.view(len(buffer), *weight.shape)
            for name, piece, weight in zip(like.names, pieces, like.parameters, strict=True)
        }


def stackable(members: Sequence[Training]) -> bool:
    """Whether `Stack` can train `members`."""
    alike = {(m.shape, m.recipe.batch_size, tuple(m.optimizer.names)) for m in members}
    plain = all(
        derived(m.model, m.device)
        and m.recipe.dtype == "float32"
        and m.parts == 1
        and not (m.execution.recompute or m.execution.logit_rows or m.execution.compiled)
        for m in members
    )
    return len(alike) == 1 and plain
