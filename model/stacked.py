"""`model.backprop` for several plain decoders of one shape at once: a leading axis of members.

Small models leave a core waiting between kernels; here each kernel does the work of all members.
Matrices are multiplied in batches, one a member. Held to `model.backprop` by a test, member by
member. Rows are tokens, (members, batch · time, features).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from model.backprop import Part
from model.between import score
from model.shape import Shape
from model.transformer import EPSILON

aten = torch.ops.aten


class Rows:
    """A buffer of rows (members, batch · time, parts · d_model) and a view of it by head."""

    def __init__(self, shape: Shape, members: int, batch: int, parts: int) -> None:
        time, heads, size = shape.context_length, shape.num_heads, shape.head_size
        self.rows = torch.empty(members, batch * time, parts * shape.d_model)
        by_head = self.rows.view(members * batch, time, parts, heads, size)
        self.parts = by_head.permute(2, 0, 3, 1, 4)


class Heads:
    """A buffer (parts, members · batch · head, time, head_size): what batched products write."""

    def __init__(self, shape: Shape, members: int, batch: int, parts: int) -> None:
        time, heads, size = shape.context_length, shape.num_heads, shape.head_size
        self.parts = torch.empty(parts, members * batch, heads, time, size)
        self.each = self.parts.flatten(1, 2).unbind()
        self.transposed = [part.transpose(1, 2) for part in self.each]


class Scratch:
    """Buffers that every block overwrites."""

    def __init__(self, shape: Shape, members: int, batch: int) -> None:
        time, heads = shape.context_length, members * batch * shape.num_heads
        self.sizes = (shape, members, batch)
        self.stream = Rows(shape, members, batch, 1)
        self.projected = Rows(shape, members, batch, 3)
        self.hidden = torch.empty(members, batch * time, shape.d_ff)
        self.scores = torch.empty(heads, time, time)
        self.scores_t = self.scores.transpose(1, 2)
        self.by_head = Heads(shape, members, batch, 3)
        self.mixed = Heads(shape, members, batch, 1)
        self.mask = torch.full((time, time), -math.inf).triu(1).expand_as(self.scores)


class LayerNorm:
    """Layer normalization with a gain a member."""

    def __init__(self, part: Part, scratch: Scratch) -> None:
        gain = part.weights["weight"]
        self.size = gain.shape[-1:]
        self.gain, self.gain_gradient = gain[:, None], part.gradients["weight"]
        self.y = torch.empty_like(scratch.stream.rows)
        self.slope = torch.empty_like(self.y)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized rows, in a buffer of its own; remembers what `backward` needs."""
        self.x = x
        self.plain, self.mean, self.rstd = torch.native_layer_norm(
            x, self.size, None, None, EPSILON
        )
        return torch.mul(self.plain, self.gain, out=self.y)

    def backward(self, dy: Tensor) -> Tensor:
        """Gradient of the input, in a tensor of its own."""
        torch.mul(dy, self.plain, out=self.slope)
        torch.sum(self.slope, 1, out=self.gain_gradient)
        torch.mul(dy, self.gain, out=self.slope)
        dx, _, _ = aten.native_layer_norm_backward(
            self.slope, self.x, self.size, self.mean, self.rstd, None, None, [True, False, False]
        )
        return dx


class Attention:
    """Causal self-attention with explicit scores."""

    def __init__(self, part: Part, scratch: Scratch) -> None:
        shape = scratch.sizes[0]
        self.w_in, self.dw_in = part.weights["in_proj_weight"], part.gradients["in_proj_weight"]
        self.w_out, self.dw_out = part.weights["out_proj.weight"], part.gradients["out_proj.weight"]
        self.w_in_t, self.w_out_t = self.w_in.mT, self.w_out.mT
        self.scratch = scratch
        self.scale = shape.head_size**-0.5
        self.qkv = Heads(*scratch.sizes, 3)
        self.chances = torch.empty_like(scratch.scores)
        self.chances_t = self.chances.transpose(1, 2)
        self.mixed = Rows(*scratch.sizes, 1)

    def forward(self, h: Tensor, residual: Tensor) -> Tensor:
        """`residual` plus what attention makes of `h`."""
        s = self.scratch
        self.h = h
        torch.bmm(h, self.w_in_t, out=s.projected.rows)
        self.qkv.parts.copy_(s.projected.parts)
        q, _, v = self.qkv.each
        torch.baddbmm(s.mask, q, self.qkv.transposed[1], alpha=self.scale, out=s.scores)
        torch.softmax(s.scores, -1, out=self.chances)
        torch.bmm(self.chances, v, out=s.mixed.each[0])
        self.mixed.parts.copy_(s.mixed.parts)
        return torch.baddbmm(residual, self.mixed.rows, self.w_out_t)

    def backward(self, dy: Tensor) -> Tensor:
        """Gradient of `h`, in a scratch buffer."""
        s = self.scratch
        q, k, _ = self.qkv.each
        dq, dk, dv = s.by_head.each
        self.dw_out.copy_(torch.bmm(dy.mT, self.mixed.rows))
        torch.bmm(dy, self.w_out, out=s.stream.rows)
        s.mixed.parts.copy_(s.stream.parts)
        dmixed = s.mixed.each[0]
        torch.bmm(self.chances_t, dmixed, out=dv)
        torch.bmm(dmixed, self.qkv.transposed[2], out=s.scores)
        aten._softmax_backward_data.out(
            s.scores, self.chances, -1, s.scores.dtype, grad_input=s.scores
        )
        torch.baddbmm(dq, s.scores, k, beta=0, alpha=self.scale, out=dq)
        torch.baddbmm(dk, s.scores_t, q, beta=0, alpha=self.scale, out=dk)
        s.projected.parts.copy_(s.by_head.parts)
        self.dw_in.copy_(torch.bmm(s.projected.rows.mT, self.h))
        return torch.bmm(s.projected.rows, self.w_in, out=s.stream.rows)


class FeedForward:
    """Two matrices with biases around a GELU."""

    def __init__(self, part: Part, scratch: Scratch) -> None:
        self.w1, self.dw1 = part.weights["w1.weight"], part.gradients["w1.weight"]
        self.b1, self.db1 = part.weights["w1.bias"][:, None], part.gradients["w1.bias"]
        self.w2, self.dw2 = part.weights["w2.weight"], part.gradients["w2.weight"]
        self.b2, self.db2 = part.weights["w2.bias"][:, None], part.gradients["w2.bias"]
        self.w1_t, self.w2_t = self.w1.mT, self.w2.mT
        self.scratch = scratch
        self.before = torch.empty_like(scratch.hidden)
        self.after = torch.empty_like(scratch.hidden)

    def forward(self, h: Tensor, residual: Tensor) -> Tensor:
        """`residual` plus what the two matrices make of `h`."""
        self.h = h
        torch.bmm(h, self.w1_t, out=self.before).add_(self.b1)
        aten.gelu.out(self.before, out=self.after)
        return torch.baddbmm(residual, self.after, self.w2_t).add_(self.b2)

    def backward(self, dy: Tensor) -> Tensor:
        """Gradient of `h`, in a scratch buffer."""
        hidden = self.scratch.hidden
        torch.sum(dy, 1, out=self.db2)
        self.dw2.copy_(torch.bmm(dy.mT, self.after))
        torch.bmm(dy, self.w2, out=hidden)
        aten.gelu_backward.grad_input(hidden, self.before, grad_input=hidden)
        torch.sum(hidden, 1, out=self.db1)
        self.dw1.copy_(torch.bmm(hidden.mT, self.h))
        return torch.bmm(hidden, self.w1, out=self.scratch.stream.rows)


class Block:
    """Attention, then feed-forward, each behind its norm and added to the stream."""

    def __init__(self, part: Part, scratch: Scratch) -> None:
        self.ln1 = LayerNorm(part.under("ln1."), scratch)
        self.attn = Attention(part.under("attn."), scratch)
        self.ln2 = LayerNorm(part.under("ln2."), scratch)
        self.ffn = FeedForward(part.under("ffn."), scratch)

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block."""
        x = self.attn.forward(self.ln1.forward(x), x)
        return self.ffn.forward(self.ln2.forward(x), x)

    def backward(self, dx: Tensor) -> Tensor:
        """Gradient of the stream before the block, in the tensor that held the one after it."""
        dx += self.ln2.backward(self.ffn.backward(dx))
        dx += self.ln1.backward(self.attn.backward(dx))
        return dx


class Head:
    """The output projection and the mean cross-entropy of its softmax."""

    def __init__(self, part: Part, scratch: Scratch) -> None:
        shape, members, _ = scratch.sizes
        self.w, self.dw = part.weights["weight"], part.gradients["weight"]
        self.w_t = self.w.mT
        self.slope = scratch.stream.rows
        self.rows = self.slope.shape[1]
        self.logits = torch.empty(members, self.rows, shape.vocab_size)
        self.dlogits = torch.empty_like(self.logits)

    def __call__(self, h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses (members,), nat, and the gradient of `h`; `targets` (members, rows, 1)."""
        torch.bmm(h, self.w_t, out=self.logits)
        losses = score(self.logits, targets, self.dlogits).mean((1, 2)).neg_()
        torch.mul(torch.bmm(self.dlogits.mT, h), 1 / self.rows, out=self.dw)
        out = self.slope
        torch.baddbmm(out, self.dlogits, self.w, beta=0, alpha=1 / self.rows, out=out)
        return losses, out


class StackedBackprop:
    """Forward and backward of several plain decoders of one shape and batch size.

    Args:
        shape: of each, plain: see `backprop.derived`.
        batch: sequences of each, of the whole context.
        weights: by name, (members, …); read at every call.
        gradients: where to write theirs, by the same names.
    """

    def __init__(
        self,
        shape: Shape,
        batch: int,
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> None:
        whole = Part("", weights, gradients)
        self.tokens = whole.under("token_embeddings.")
        self.positions = whole.under("position_embeddings.")
        members = len(self.tokens.weights["weight"])
        scratch = Scratch(shape, members, batch)
        self.grid = (members, batch, shape.context_length, shape.d_model)
        self.blocks = [Block(whole.under(f"layers.{i}."), scratch) for i in range(shape.num_layers)]
        self.ln_final = LayerNorm(whole.under("ln_final."), scratch)
        self.head = Head(whole.under("lm_head."), scratch)
        self.stream = torch.empty_like(scratch.stream.rows)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Mean losses (members,) on `tokens` (members, batch, context_length + 1), nat; leaves
        their gradients."""
        members = len(tokens)
        inputs = tokens[:, :, :-1].reshape(members, -1)
        table = self.tokens.weights["weight"]
        for member in range(members):
            torch.index_select(table[member], 0, inputs[member], out=self.stream[member])
        self.stream.view(self.grid).add_(self.positions.weights["weight"][:, None])
        x = self.stream
        for block in self.blocks:
            x = block.forward(x)
        targets = tokens[:, :, 1:].reshape(members, -1, 1)
        losses, slope = self.head(self.ln_final.forward(x), targets)
        dx = self.ln_final.backward(slope)
        for block in reversed(self.blocks):
            dx = block.backward(dx)
        torch.sum(dx.view(self.grid), 1, out=self.positions.gradients["weight"])
        gradient = self.tokens.gradients["weight"].zero_()
        for member in range(members):
            gradient[member].index_add_(0, inputs[member], dx[member])
        return losses
