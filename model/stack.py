"""Several trainings of one shape in step: one batched gradient, everything else each its own.

Each member keeps its rate, schedule, seed, batches, optimizer and reports, and can be dropped; what
it reports is what it would alone, but for rounding.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.backprop import derived
from model.compiling import Gradient, OrPlain
from model.precision import flushed
from model.progress import Progress
from model.stacked import StackedBackprop
from model.stacked_autograd import stacked_gradient
from model.train import Training
from model.transformer import BasicsTransformerLM


class Stack:
    """Trainings that advance together.

    Args:
        members: of one shape and batch size, each batch in one part, without dropout: on a CPU
            plain decoders in float32, on a GPU shipped ones without `qk_norm` that are computed in
            one way. They may stand at any step, and have any number of steps.

    Raises:
        ValueError: `stackable` says no.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        if not stackable(members):
            raise ValueError(
                "members must be decoders of one shape, batch size and parametrization, computed "
                "in one way, without dropout, each batch in one part; on a CPU plain ones in "
                "float32, on a GPU ones without qk_norm or recomputed blocks"
            )
        self.members: dict[int, Training] = dict(enumerate(members))
        """Those that train on, by their place in the sequence given."""
        self._gradient: Gradient | None = None
        self._compiles = True

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
        """Train that member no longer. It keeps its state, in memory of its own, and the others
        are gathered anew without it."""
        member = self.members.pop(place)
        member.move_to([torch.empty_like(member.optimizer.weights) for _ in range(4)])
        self._gradient = None

    def _advance(self) -> list[int]:
        """Step until members have come to a report, or to a loss that is no number: which."""
        members = list(self.members.values())
        stops = {place: member.next_report for place, member in self.members.items()}
        gradient = self._gradient or self._prepare(members)
        loading, begin = 0.0, members[0].clock()
        due: list[int] = []
        with flushed():
            while not due:
                before = time.perf_counter()
                tokens = _tokens(members)
                loading += time.perf_counter() - before
                losses = gradient(tokens)
                for member, loss in zip(members, losses, strict=True):
                    member.move(loss)
                due = [p for p, m in self.members.items() if m.step == stops[p] or m.lost()]
        # As in `Training`: a GPU trains on while the next batch is loaded.
        waited = loading if members[0].device.type == "cpu" else 0.0
        each = (members[0].clock() - begin - waited) / len(members)
        for member in members:
            member.spend(each)
        return due

    def _prepare(self, members: Sequence[Training]) -> Gradient:
        """Gather; compile and capture before the clock runs, by a gradient that moves nothing."""
        begin = members[0].clock()
        self._gradient = gradient = self._gather(members)
        execution = members[0].execution
        if execution.compiled or execution.captured:
            gradient(_tokens(members))
            self._compiles = not (isinstance(gradient, OrPlain) and gradient.failed)
            each = (members[0].clock() - begin) / len(members)
            for member in members:
                member.preparing_seconds += each
        return gradient

    def _gather(self, members: Sequence[Training]) -> Gradient:
        """Weights, gradients and moments of all members in a buffer each, and what reads them."""
        first = members[0]
        like, way = first.optimizer.weights, first.execution
        # Apart: autograd would take a gradient that is written for a weight that was changed.
        buffers = [torch.empty(len(members), len(like), device=like.device) for _ in range(4)]
        for member, *places in zip(members, *buffers, strict=True):
            member.move_to(places)
        weights, gradients = (self._named(first, buffer) for buffer in buffers[:2])
        if derived(first.model, first.device):
            return StackedBackprop(first.shape, first.recipe.batch_size, weights, gradients)
        assert isinstance(first.model, BasicsTransformerLM)
        dtype = getattr(torch, first.recipe.dtype)
        way = replace(way, compiled=way.compiled and self._compiles)
        return stacked_gradient(first.model, weights, gradients, dtype, way)

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
    alike = {
        (m.shape, m.recipe.batch_size, m.recipe.dtype, m.execution, tuple(m.optimizer.names))
        for m in members
    }
    return len(alike) == 1 and all(m.parts == 1 and _takes(m) for m in members)


def _takes(member: Training) -> bool:
    """Whether a stack computes such a model in such a way."""
    model, way = member.model, member.execution
    if member.device.type == "cpu":
        simple = not (way.recompute or way.logit_rows or way.compiled)
        return derived(member.model, member.device) and simple and member.recipe.dtype == "float32"
    if type(model) is not BasicsTransformerLM or model.attn_pdrop or model.residual_pdrop:
        return False
    # Mapped over members, autocast no longer hands its norms of queries and keys float32.
    return not (model.shape.qk_norm or way.recompute or member.group)


def _tokens(members: Sequence[Training]) -> Tensor:
    """Each member's next batch, (members, batch, context_length + 1)."""
    return torch.stack([member.batch() for member in members])
