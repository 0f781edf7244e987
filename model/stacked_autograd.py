"""Loss and gradient of several shipped decoders of one shape at once, by autograd: for GPUs.

Small models leave a GPU idle between kernels; with a leading axis of members each kernel does the
work of all. `model.gradient` is what it does for each alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.compiling import (
    WITHIN,
    Captured,
    Gradient,
    Trunk,
    compiled_or_plain,
    compiled_part,
    compiled_trunks,
    trunks,
)
from model.execution import Execution
from model.gradient import HEAD, attention
from model.headloss import head_loss, of_part
from model.transformer import BasicsTransformerLM

EMBEDDING = "token_embeddings.weight"
"""The head, too, where it is tied."""


class StackedAutograd:
    """Forward and backward of several decoders without dropout.

    Args:
        model: one of them, or any other of their shape.
        weights: by name, (members, …); read at every call.
        gradients: where to write theirs, by the same names.
        dtype: of products; the rest is float32.
        execution: of each; a batch is computed in one part.
    """

    def __init__(
        self,
        model: BasicsTransformerLM,
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        dtype: torch.dtype,
        execution: Execution,
    ) -> None:
        self.trunk = Trunk(model)
        self.tied = model.shape.tied_head
        head = EMBEDDING if self.tied else HEAD
        self.head, self.head_place = weights[head].detach(), gradients[head]
        inner = [name for name in weights if self.tied or name != head]
        self.leaves = {WITHIN + name: weights[name].detach().requires_grad_() for name in inner}
        self.places = [gradients[name] for name in inner]
        self.members = len(self.head)
        self.dtype = dtype
        kind = torch.device(execution.device).type
        self.precision = torch.autocast(kind, dtype, enabled=dtype != torch.float32)
        self.execution = execution
        self.call, self.part = trunks, of_part
        if execution.compiled:
            key = model.shape, execution, dtype, self.members
            self.call, self.part = compiled_trunks(key), compiled_part(key)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Mean losses (members,) on `tokens` (members, batch, context_length + 1), nat; leaves
        their gradients."""
        with self.precision, attention(self.execution):
            h = self.call(self.trunk, self.leaves, tokens[..., :-1]).flatten(1, 2)
        rows, at_once = h.shape[1], self.execution.logit_rows
        self.head_place.zero_()
        losses, slope = head_loss(
            h.detach().to(self.dtype),
            self.head,
            tokens[..., 1:].flatten(1),
            self.head_place,
            scale=1 / rows,
            rows=max(1, at_once // self.members) if at_once else rows,
            part=self.part,
        )
        found = torch.autograd.grad(h, list(self.leaves.values()), slope.to(h.dtype))
        if self.tied:
            at = list(self.leaves).index(WITHIN + EMBEDDING)
            found[at].add_(self.head_place)
        torch._foreach_copy_(self.places, found)
        return losses


def stacked_gradient(
    model: BasicsTransformerLM,
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    dtype: torch.dtype,
    execution: Execution,
) -> Gradient:
    """`StackedAutograd`, compiled and captured as `execution` says."""

    def made(way: Execution) -> Gradient:
        found = StackedAutograd(model, weights, gradients, dtype, way)
        captured = way.captured and torch.device(way.device).type == "cuda"
        return Captured(found) if captured else found

    return compiled_or_plain(execution, made)
