"""A batch's mean loss and its gradient, by the fastest way that model, device and dtype allow."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import compress

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from typing_extensions import override

from model.backprop import Backprop, derived
from model.between import Compiled, Torch
from model.compiling import (
    Call,
    Captured,
    Gradient,
    compiled_or_plain,
    compiled_part,
    compiled_trunk,
    compiled_whole,
    trunk,
    whole,
)
from model.execution import Execution
from model.headloss import head_loss, of_part
from model.optim import AdamW
from model.precision import onednn, onednn_keeps_float32
from model.recipe import Recipe
from model.transformer import BasicsTransformerLM

ONEDNN_SIZE = 2**19
"""Multiply-adds of one product, a batch's tokens · d_model², from which oneDNN's faster products
outweigh its slower calls: measured, see README.md."""
HEAD = "lm_head.weight"
"""Whose gradient may be a sum over parts of a batch."""


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
        self.dtype = dtype
        kind = torch.device(execution.device).type
        self.precision = torch.autocast(kind, dtype, enabled=dtype != torch.float32)
        self.execution = execution
        self.micro_batch_size = micro_batch_size
        learned = [weight.requires_grad for weight in optimizer.parameters]
        self.leaves = list(compress(optimizer.parameters, learned))
        self.places = list(compress(optimizer.gradients, learned))
        self.call = self._call(execution)

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Gradient`."""
        parts = tokens.split(self.micro_batch_size)
        losses = [self._add(part, 1 / len(parts), first=part is parts[0]) for part in parts]
        return torch.stack(losses).sum()

    def _call(self, execution: Execution) -> Call:
        """What is differentiated, of the model and its input tokens."""
        if execution.compiled:
            sizes = tuple(weight.shape for weight in self.model.parameters())
            return compiled_whole((type(self.model), sizes, self.dtype, self.micro_batch_size))
        return whole

    def _add(self, tokens: Tensor, share: float, *, first: bool) -> Tensor:
        """Write the `first` part's gradient, or add another's; its share of the loss."""
        with attention(self.execution):  # on the way back, too: blocks may be computed again
            with self.precision:
                logits = self.call(self.model, tokens[:, :-1])
            if logits.device.type != "cpu":
                logits = logits.float()  # a bfloat16 log-softmax resolves .06 nat of a loss of 10
            loss = share * cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()  # which every module bears; `autograd.grad` not
        self._write(tuple(map(_taken, self.leaves)), first=first)
        return loss.detach()

    def _write(self, found: tuple[Tensor, ...], *, first: bool) -> None:
        """Put gradients of the leaves, the `first` or further ones, where the optimizer reads."""
        # Left to torch, to be added up as `weight.grad`, they would all be read and written again.
        (torch._foreach_copy_ if first else torch._foreach_add_)(self.places, found)


def _taken(leaf: Tensor) -> Tensor:
    """A weight's gradient, whole, taken off it."""
    found, leaf.grad = leaf.grad, None
    if found is None:
        return torch.zeros_like(leaf)
    return found.to_dense() if found.is_sparse else found


def attention(execution: Execution) -> AbstractContextManager[object]:
    """Within it attention is computed as `execution` says."""
    return sdpa_kernel(SDPBackend.MATH) if execution.attention == "explicit" else nullcontext()


class HeadApart(Autograd):
    """The gradient of the shipped decoder, its logits a part of the rows at a time, in float32."""

    @override
    def _call(self, execution: Execution) -> Call:
        model = self.model
        assert isinstance(model, BasicsTransformerLM)
        self.head = model.lm_head.weight
        self.tied = model.shape.tied_head
        place = next(i for i, leaf in enumerate(self.leaves) if leaf is self.head)
        self.head_place = self.places[place]
        if not self.tied:
            del self.leaves[place], self.places[place]
        self.rows = execution.logit_rows or self.micro_batch_size * model.shape.context_length
        self.part = of_part
        if not execution.compiled:
            return trunk
        dropout = model.attn_pdrop, model.residual_pdrop
        key = model.shape, dropout, execution, self.dtype, self.micro_batch_size
        self.part = compiled_part(key)
        return compiled_trunk(key)

    @override
    def _add(self, tokens: Tensor, share: float, *, first: bool) -> Tensor:
        if first:
            (self.optimizer.gradient if self.tied else self.head_place).zero_()
        with attention(self.execution):
            with self.precision:
                h = self.call(self.model, tokens[:, :-1]).flatten(0, 1)
            loss, slope = head_loss(
                h.detach().to(self.dtype),
                self.head.detach(),
                tokens[:, 1:].flatten(),
                self.head_place,
                scale=share / len(h),
                rows=self.rows,
                part=self.part,
            )
            found = torch.autograd.grad(h, self.leaves, slope.to(h.dtype), materialize_grads=True)
        self._write(found, first=first and not self.tied)
        return loss


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


class Rounded:
    """The gradient of the plain decoder from products in bfloat16.

    Matrices and biases are rounded once a step; the weights that the optimizer moves stay float32,
    and with them embeddings, gains, the stream between blocks, and the head's gradient.
    """

    def __init__(
        self,
        model: BasicsTransformerLM,
        optimizer: AdamW,
        micro_batch_size: int,
        logit_rows: int | None,
        between: type[Torch] = Torch,
    ) -> None:
        weights = dict(zip(optimizer.names, _detached(optimizer), strict=True))
        gradients = dict(zip(optimizer.names, optimizer.gradients, strict=True))
        exact = {
            id(weight)
            for module in model.modules()
            if isinstance(module, nn.Embedding | nn.LayerNorm)
            for weight in module.parameters()
        }
        named = zip(optimizer.names, optimizer.parameters, strict=True)
        rounded = [name for name, weight in named if id(weight) not in exact]
        written = [name for name in rounded if name != HEAD]
        self.sources = [weights[name] for name in rounded]
        self.places = [gradients[name] for name in written]
        self.weights = [weight.bfloat16() for weight in self.sources]
        self.written = [torch.empty_like(place, dtype=torch.bfloat16) for place in self.places]
        self.backprop = Backprop(
            model.shape,
            micro_batch_size,
            weights | dict(zip(rounded, self.weights, strict=True)),
            gradients | dict(zip(written, self.written, strict=True)),
            logit_rows,
            between,
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Gradient`."""
        self.backprop.between.round(self.sources, self.weights)
        loss = self.backprop(tokens)
        self.backprop.between.widen(self.written, self.places)
        return loss


def _detached(optimizer: AdamW) -> list[Tensor]:
    return [weight.detach() for weight in optimizer.parameters]


def gradient(model: nn.Module, optimizer: AdamW, recipe: Recipe, execution: Execution) -> Gradient:
    """How `Training` gets its gradients.

    The plain decoder on a CPU has them written out; there "bfloat16" is float32 where the CPU has
    no units for it. Everything else goes through autograd, "bfloat16" by autocast.

    Raises:
        ValueError: the micro-batch does not divide the batch.
    """
    return compiled_or_plain(execution, partial(_chosen, model, optimizer, recipe))


def _chosen(model: nn.Module, optimizer: AdamW, recipe: Recipe, execution: Execution) -> Gradient:
    """The one way that `execution` asks for."""
    parts = execution.parts(recipe.batch_size)
    size = recipe.batch_size // parts
    device = torch.device(execution.device)
    if derived(model, device) and not execution.recompute:
        once = _written_out(model, optimizer, recipe, size, execution)
        return once if parts == 1 else InParts(once, optimizer, size)
    dtype = getattr(torch, recipe.dtype)
    if not isinstance(model, BasicsTransformerLM):
        return Autograd(model, optimizer, dtype, execution, size)
    model.recompute = execution.recompute
    # On a CPU, low-precision logits are scored as they are: faster, and measured to cost nothing.
    apart = device.type != "cpu" or execution.logit_rows or execution.compiled
    found = (HeadApart if apart else Autograd)(model, optimizer, dtype, execution, size)
    return Captured(found) if execution.captured and _capturable(model, device) else found


def _capturable(model: BasicsTransformerLM, device: torch.device) -> bool:
    """Whether the gradient may be a CUDA graph: it draws no random numbers, nor keeps their state
    for blocks that are computed again."""
    random = model.attn_pdrop or model.residual_pdrop or model.recompute
    return device.type == "cuda" and not random


def _written_out(
    model: nn.Module,
    optimizer: AdamW,
    recipe: Recipe,
    micro_batch_size: int,
    execution: Execution,
) -> Gradient:
    assert isinstance(model, BasicsTransformerLM)
    between = Compiled if execution.compiled else Torch
    keeps_float32 = onednn_keeps_float32()
    if recipe.dtype == "bfloat16" and not keeps_float32:
        return Rounded(model, optimizer, micro_batch_size, execution.logit_rows, between)
    backprop = Backprop(
        model.shape,
        micro_batch_size,
        dict(zip(optimizer.names, _detached(optimizer), strict=True)),
        dict(zip(optimizer.names, optimizer.gradients, strict=True)),
        execution.logit_rows,
        between,
    )
    size = micro_batch_size * model.shape.context_length * model.shape.d_model**2
    if size < ONEDNN_SIZE or not keeps_float32:
        return backprop

    def through_onednn(tokens: Tensor) -> Tensor:
        with onednn():
            return backprop(tokens)

    return through_onednn
