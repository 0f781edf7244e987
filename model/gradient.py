"""A batch's mean loss and its gradient, by the fastest way that model, device and dtype allow."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from model.backprop import Backprop, derived
from model.execution import Execution
from model.optim import AdamW
from model.precision import onednn, onednn_keeps_float32
from model.recipe import Recipe
from model.transformer import BasicsTransformerLM

Gradient = Callable[[Tensor], Tensor]
"""Tokens (batch_size, context_length + 1) to their mean loss, nat/token; the gradient is left in
the optimizer's buffer."""

ONEDNN_SIZE = 2**19
"""Multiply-adds of one product, a batch's tokens · d_model², from which oneDNN's faster products
outweigh its slower calls: measured, see README.md."""


class Autograd:
    """The gradient of any module from tokens to logits."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: AdamW,
        dtype: torch.dtype,
        execution: Execution,
        micro_batch_size: int,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        kind = torch.device(execution.device).type
        self.precision = torch.autocast(kind, dtype, enabled=dtype != torch.float32)
        self.explicit = execution.attention == "explicit"
        self.micro_batch_size = micro_batch_size
        for weight, place in zip(optimizer.parameters, optimizer.gradients, strict=True):
            weight.grad = place  # so that torch adds up where the optimizer reads

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Gradient`."""
        self.optimizer.gradient.zero_()
        parts = tokens.split(self.micro_batch_size)
        losses = [self._add(part, 1 / len(parts)) for part in parts]
        return torch.stack(losses).sum()

    def _add(self, tokens: Tensor, share: float) -> Tensor:
        """Add a part's gradient; its share of the loss."""
        with self.precision, self._attention():
            logits = self.model(tokens[:, :-1])
        loss = share * cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        return loss.detach()

    def _attention(self) -> AbstractContextManager[object]:
        return sdpa_kernel(SDPBackend.MATH) if self.explicit else nullcontext()


class InParts:
    """A gradient that is written, not added: of each part of a batch in turn, then their mean."""

    def __init__(self, gradient: Gradient, optimizer: AdamW, micro_batch_size: int) -> None:
        self.gradient = gradient
        self.written = optimizer.gradient
        self.sum = torch.empty_like(optimizer.gradient)
        self.micro_batch_size = micro_batch_size

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Gradient`."""
        parts = tokens.split(self.micro_batch_size)
        self.sum.zero_()
        losses = []
        for part in parts:
            losses.append(self.gradient(part))
            self.sum += self.written
        torch.div(self.sum, len(parts), out=self.written)
        return torch.stack(losses).mean()


def gradient(model: nn.Module, optimizer: AdamW, recipe: Recipe, execution: Execution) -> Gradient:
    """How `Training` gets its gradients.

    The plain decoder on a CPU has them written out; there "bfloat16" lets oneDNN round products
    where the CPU has units for it. Everything else goes through autograd, "bfloat16" by autocast.

    Raises:
        ValueError: the micro-batch does not divide the batch.
    """
    parts = execution.parts(recipe.batch_size)
    micro_batch_size = recipe.batch_size // parts
    device = torch.device(execution.device)
    if derived(model, device) and not (execution.compiled or execution.recompute):
        whole = _written_out(model, optimizer, recipe, micro_batch_size)
        return whole if parts == 1 else InParts(whole, optimizer, micro_batch_size)
    if isinstance(model, BasicsTransformerLM):
        model.recompute = execution.recompute
    if execution.compiled:
        model.compile()
    return Autograd(model, optimizer, getattr(torch, recipe.dtype), execution, micro_batch_size)


def _written_out(
    model: nn.Module, optimizer: AdamW, recipe: Recipe, micro_batch_size: int
) -> Gradient:
    assert isinstance(model, BasicsTransformerLM)
    weights = [weight.detach() for weight in optimizer.parameters]
    backprop = Backprop(
        model.shape,
        micro_batch_size,
        dict(zip(optimizer.names, weights, strict=True)),
        dict(zip(optimizer.names, optimizer.gradients, strict=True)),
    )
    size = micro_batch_size * model.shape.context_length * model.shape.d_model**2
    exact = size >= ONEDNN_SIZE and onednn_keeps_float32()
    if recipe.dtype == "float32" and not exact:
        return backprop

    def through_onednn(tokens: Tensor) -> Tensor:
        with onednn():
            return backprop(tokens)

    return through_onednn
