"""Loss and gradient of the plain decoder on CPU, derived by hand: no graph, few and reused buffers.

Small models spend their time between the kernels. Written out, a step needs half as many of them
as autograd's, and gradients land where the optimizer reads them. `model.transformer` stays the
reference: a test holds the two together. Rows are tokens, (batch · time, features).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.between import Normalized, Torch
from model.shape import Shape
from model.transformer import BasicsTransformerLM


def derived(model: nn.Module, device: torch.device) -> bool:
    """Whether `Backprop` knows the gradient of `model` and is made for `device`."""
    if not isinstance(model, BasicsTransformerLM) or device.type != "cpu":
        return False
    return model.shape.plain and not (model.attn_pdrop or model.residual_pdrop)


class Part:
    """Weights whose names begin alike, each with the place for its gradient."""

    def __init__(
        self, prefix: str, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> None:
        self.weights = {
            n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)
        }
        self.gradients = {n.removeprefix(prefix): gradients[prefix + n] for n in self.weights}

    def under(self, prefix: str) -> "Part":
        """Those of them whose names go on with `prefix`."""
        return Part(prefix, self.weights, self.gradients)


class Rows:
    """A buffer of rows (batch · time, parts · d_model) and views of it, cut once for all steps."""

    def __init__(self, shape: Shape, batch: int, parts: int, dtype: torch.dtype) -> None:
        time, heads, size = shape.context_length, shape.num_heads, shape.head_size
        self.rows = torch.empty(batch * time, parts * shape.d_model, dtype=dtype)
        self.transposed = self.rows.t()
        self.parts = self.rows.view(batch, time, parts, heads, size).permute(2, 0, 3, 1, 4)


class Heads:
    """A buffer (parts, batch · head, time, head_size): what batched products write in one call."""

    def __init__(self, shape: Shape, batch: int, parts: int, dtype: torch.dtype) -> None:
        time, heads, size = shape.context_length, shape.num_heads, shape.head_size
        self.parts = torch.empty(parts, batch, heads, time, size, dtype=dtype)
        self.each = self.parts.flatten(1, 2).unbind()
        self.transposed = [part.transpose(1, 2) for part in self.each]


class Scratch:
    """Buffers that every block overwrites, and what works on them between products."""

    def __init__(self, shape: Shape, batch: int, between: Torch, stream: torch.dtype) -> None:
        time, heads, dtype = shape.context_length, batch * shape.num_heads, between.dtype
        self.dx = torch.empty(batch * time, shape.d_model, dtype=stream)
        """The stream's gradient, and the same in the products' dtype."""
        self.low = self.dx if stream == dtype else torch.empty_like(self.dx, dtype=dtype)
        self.batch, self.dtype, self.between = batch, dtype, between
        self.stream = Rows(shape, batch, 1, dtype)
        self.projected = Rows(shape, batch, 3, dtype)
        self.hidden = torch.empty(batch * time, shape.d_ff, dtype=dtype)
        self.hidden_t = self.hidden.t()
        self.scores = torch.empty(heads, time, time, dtype=dtype)
        self.scores_t = self.scores.transpose(1, 2)
        self.by_head = Heads(shape, batch, 3, dtype)
        self.mixed = Heads(shape, batch, 1, dtype)
        self.mask = torch.full((time, time), -math.inf, dtype=dtype).triu(1)


Added = tuple[Tensor, Tensor | None]
"""Rows on their way into the stream, in the products' dtype, and a bias with them."""


class LayerNorm:
    """Layer normalization with a gain, in the stream's dtype; rows leave it in the products'."""

    def __init__(self, part: Part, scratch: Scratch) -> None:
        self.gain, self.gain_gradient = part.weights["weight"], part.gradients["weight"]
        self.scratch = scratch
        self.done = Normalized(scratch.dx, scratch.dtype)

    def forward(self, stream: Tensor, more: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """Normalized rows of the stream with what is added; remembers what `backward` needs."""
        self.scratch.between.normalize(stream, more, bias, self.gain, self.done)
        return self.done.rows

    def backward(self, dy: Tensor) -> Tensor:
        """Add to the scratch's gradient of the stream; the same in the products' dtype."""
        s = self.scratch
        s.between.normalize_back(self.done, dy, self.gain, self.gain_gradient, s.dx, s.low)
        return s.low


class Attention:
    """Causal self-attention with explicit scores: at these sizes faster than a fused kernel."""

    def __init__(self, part: Part, shape: Shape, scratch: Scratch) -> None:
        self.w_in, self.dw_in = part.weights["in_proj_weight"], part.gradients["in_proj_weight"]
        self.w_out, self.dw_out = part.weights["out_proj.weight"], part.gradients["out_proj.weight"]
        self.w_in_t, self.w_out_t = self.w_in.t(), self.w_out.t()
        self.scratch = scratch
        self.scale = shape.head_size**-0.5
        self.qkv = Heads(shape, scratch.batch, 3, scratch.dtype)
        self.chances = torch.empty_like(scratch.scores)
        self.chances_t = self.chances.transpose(1, 2)
        self.mixed = Rows(shape, scratch.batch, 1, scratch.dtype)

    def forward(self, h: Tensor) -> Tensor:
        """What attention makes of `h`, in a scratch buffer."""
        s = self.scratch
        self.h = h
        torch.mm(h, self.w_in_t, out=s.projected.rows)
        s.between.to_heads(s.projected.parts, self.qkv.parts)
        q, _, v = self.qkv.each
        k_t = self.qkv.transposed[1]
        torch.baddbmm(s.scores, q, k_t, beta=0, alpha=self.scale, out=s.scores)
        s.between.softmax(s.scores, s.mask, self.chances)
        torch.bmm(self.chances, v, out=s.mixed.each[0])
        s.between.to_rows(s.mixed.parts, self.mixed.parts)
        return torch.mm(self.mixed.rows, self.w_out_t, out=s.stream.rows)

    def backward(self, dy: Tensor) -> Tensor:
        """Gradient of `h`, in a scratch buffer."""
        s = self.scratch
        q, k, _ = self.qkv.each
        dq, dk, dv = s.by_head.each
        torch.mm(dy.t(), self.mixed.rows, out=self.dw_out)
        torch.mm(dy, self.w_out, out=s.stream.rows)
        s.between.to_heads(s.stream.parts, s.mixed.parts)
        dmixed = s.mixed.each[0]
        torch.bmm(self.chances_t, dmixed, out=dv)
        torch.bmm(dmixed, self.qkv.transposed[2], out=s.scores)
        s.between.softmax_back(self.chances, s.scores)
        torch.baddbmm(dq, s.scores, k, beta=0, alpha=self.scale, out=dq)
        torch.baddbmm(dk, s.scores_t, q, beta=0, alpha=self.scale, out=dk)
        s.between.to_rows(s.by_head.parts, s.projected.parts)
        torch.mm(s.projected.transposed, self.h, out=self.dw_in)
        return torch.mm(s.projected.rows, self.w_in, out=s.stream.rows)


class FeedForward:
    """Two matrices with biases around a GELU."""

    def __init__(self, part: Part, scratch: Scratch) -> None:
        self.w1, self.dw1 = part.weights["w1.weight"], part.gradients["w1.weight"]
        self.b1, self.db1 = part.weights["w1.bias"], part.gradients["w1.bias"]
        self.w2, self.dw2 = part.weights["w2.weight"], part.gradients["w2.weight"]
        self.b2, self.db2 = part.weights["w2.bias"], part.gradients["w2.bias"]
        self.w1_t, self.w2_t = self.w1.t(), self.w2.t()
        self.scratch = scratch
        self.before = torch.empty_like(scratch.hidden)
        self.after = torch.empty_like(scratch.hidden)

    def forward(self, h: Tensor) -> Added:
        """What the two matrices make of `h`, in a scratch buffer."""
        self.h = h
        torch.mm(h, self.w1_t, out=self.before)
        self.scratch.between.gelu(self.before, self.b1, self.after)
        return torch.mm(self.after, self.w2_t, out=self.scratch.stream.rows), self.b2

    def backward(self, dy: Tensor) -> Tensor:
        """Gradient of `h`, in a scratch buffer."""
        hidden = self.scratch.hidden
        torch.sum(dy, 0, out=self.db2)
        torch.mm(dy.t(), self.after, out=self.dw2)
        torch.mm(dy, self.w2, out=hidden)
        self.scratch.between.gelu_back(self.before, hidden, self.db1)
        torch.mm(self.scratch.hidden_t, self.h, out=self.dw1)
        return torch.mm(hidden, self.w1, out=self.scratch.stream.rows)


class Block:
    """Attention, then feed-forward, each behind its norm and added to the stream."""

    def __init__(self, part: Part, shape: Shape, scratch: Scratch) -> None:
        self.ln1 = LayerNorm(part.under("ln1."), scratch)
        self.attn = Attention(part.under("attn."), shape, scratch)
        self.ln2 = LayerNorm(part.under("ln2."), scratch)
        self.ffn = FeedForward(part.under("ffn."), scratch)

    def forward(self, stream: Tensor, more: Tensor | None, bias: Tensor | None) -> Added:
        """What is still to be added to `self.stream` after the block."""
        attended = self.attn.forward(self.ln1.forward(stream, more, bias))
        return self.ffn.forward(self.ln2.forward(self.ln1.done.stream, attended))

    @property
    def stream(self) -> Tensor:
        """Before the feed-forward."""
        return self.ln2.done.stream

    def backward(self, dy: Tensor) -> Tensor:
        """The stream's gradient before the block, from that after it."""
        dy = self.ln2.backward(self.ffn.backward(dy))
        return self.ln1.backward(self.attn.backward(dy))


class Head:
    """The output projection and the mean cross-entropy of its softmax, some rows at a time."""

    def __init__(self, part: Part, shape: Shape, scratch: Scratch, at_once: int | None) -> None:
        self.w, self.dw = part.weights["weight"], part.gradients["weight"]
        self.w_t = self.w.t()
        self.between = scratch.between
        self.slope = scratch.stream.rows
        self.rows = len(self.slope)
        self.at_once = min(at_once or self.rows, self.rows)
        self.logits = torch.empty(self.at_once, shape.vocab_size, dtype=scratch.dtype)
        self.dlogits = torch.empty_like(self.logits)

    def __call__(self, h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss, nat, and the gradient of `h`, in a scratch buffer; `targets` are (rows, 1)."""
        pieces = zip(*(t.split(self.at_once) for t in (h, targets, self.slope)), strict=True)
        losses = [self._part(*piece, add=i > 0) for i, piece in enumerate(pieces)]
        return torch.cat(losses).mean().neg_(), self.slope

    def _part(self, h: Tensor, targets: Tensor, slope: Tensor, *, add: bool) -> Tensor:
        """Log chances (some rows, 1) of the targets; leaves their gradient in `slope`."""
        logits, dlogits = self.logits[: len(h)], self.dlogits[: len(h)]
        torch.mm(h, self.w_t, out=logits)
        log_chances = self.between.score(logits, targets, dlogits)
        share = 1 / self.rows
        if self.dw.dtype == h.dtype:
            torch.addmm(self.dw, dlogits.t(), h, beta=int(add), alpha=share, out=self.dw)
        else:
            whole = self.dw if add else self.dw.zero_()
            whole.add_(torch.mm(dlogits.t(), h), alpha=share)
        torch.addmm(slope, dlogits, self.w, beta=0, alpha=share, out=slope)
        return log_chances


class Backprop:
    """Forward and backward of one plain decoder at one batch size.

    Args:
        shape: of the decoder, plain: see `derived`.
        batch: sequences, each of the whole context.
        weights: of the decoder by name; read at every call. Products are in the head's dtype,
            the stream and its norms in that of embeddings and gains.
        gradients: where to write theirs, by the same names and in the same dtypes, but for the
            head's, which is added up in its own.
        logit_rows: tokens whose logits are held at once; None: all.
        between: what works between the products.
    """

    def __init__(
        self,
        shape: Shape,
        batch: int,
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        logit_rows: int | None = None,
        between: type[Torch] = Torch,
    ) -> None:
        whole = Part("", weights, gradients)
        self.grid = (batch, shape.context_length, shape.d_model)
        self.tokens = whole.under("token_embeddings.")
        self.positions = whole.under("position_embeddings.")
        dtypes = weights["lm_head.weight"].dtype, self.tokens.weights["weight"].dtype
        self.between = between(dtypes[0])
        self.scratch = scratch = Scratch(shape, batch, self.between, dtypes[1])
        self.x = torch.empty_like(scratch.dx)
        self.blocks = [
            Block(whole.under(f"layers.{i}."), shape, scratch) for i in range(shape.num_layers)
        ]
        self.ln_final = LayerNorm(whole.under("ln_final."), scratch)
        self.head = Head(whole.under("lm_head."), shape, scratch, logit_rows)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Mean loss on `tokens` (batch, context_length + 1), nat; leaves its gradient."""
        inputs = tokens[:, :-1].reshape(-1)
        x, dx = self.x, self.scratch.dx
        torch.index_select(self.tokens.weights["weight"], 0, inputs, out=x)
        x.view(self.grid).add_(self.positions.weights["weight"])
        more = bias = None
        for block in self.blocks:
            more, bias = block.forward(x, more, bias)
            x = block.stream
        targets = tokens[:, 1:].contiguous().view(-1, 1)
        loss, slope = self.head(self.ln_final.forward(x, more, bias), targets)
        dx.zero_()
        dy = self.ln_final.backward(slope)
        for block in reversed(self.blocks):
            dy = block.backward(dy)
        torch.sum(dx.view(self.grid), 0, out=self.positions.gradients["weight"])
        self.tokens.gradients["weight"].zero_().index_add_(0, inputs, dx)
        return loss
