"""The decoder: the course's `BasicsTransformerLM`, and its modern variant by configuration.

State-dict names are the course's, so that its checkpoints load. Counts live in `model.shape`.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from model.cache import Memory, Places, Remembers
from model.checkpoint import read_pretrained, write_pretrained
from model.generate import Sampling, generate
from model.shape import Ffn, Norm, Positions, Shape

EPSILON = 1e-5  # of every norm, as in the course
ROTARY_BASE = 10_000.0  # RoFormer, section 3.3, arXiv 2104.09864


class Attention(nn.Module):
    """Causal self-attention over all heads at once."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * shape.d_model, shape.d_model))
        self.out_proj = nn.Linear(shape.d_model, shape.d_model, bias=False)
        self.q_norm = nn.RMSNorm(shape.head_size, eps=EPSILON) if shape.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(shape.head_size, eps=EPSILON) if shape.qk_norm else nn.Identity()
        nn.init.xavier_uniform_(self.in_proj_weight)

    @override
    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """(batch, time, d_model) to the same; `rotation` is a `rotation_table`."""
        q, k, v = self._heads(x, rotation)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))

    def extend(self, x: Tensor, rotation: Tensor | None, places: Places, memory: Memory) -> Tensor:
        """As `forward`, of tokens at `places`, beside those in `memory`; they are added to it."""
        q, k, v = self._heads(x, rotation)
        k, v = memory.add(k, v, places)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=places.seen)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor, rotation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, head, time, head_size) each."""
        batch, time, _ = x.shape
        heads = linear(x, self.in_proj_weight).view(batch, time, 3, -1, self.head_size)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q.to(v.dtype), k.to(v.dtype), v


class GeluFeedForward(nn.Module):
    """Two matrices with biases around a GELU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.d_model, shape.d_ff)
        self.w2 = nn.Linear(shape.d_ff, shape.d_model)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """(…, d_model) to the same."""
        return self.w2(gelu(self.w1(x)))


class SwigluFeedForward(nn.Module):
    """Three matrices without biases: arXiv 2002.05202, equation 6."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.w2 = nn.Linear(shape.d_ff, shape.d_model, bias=False)
        self.w3 = nn.Linear(shape.d_model, shape.d_ff, bias=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """(…, d_model) to the same."""
        return self.w2(silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Attention, then feed-forward, each behind its norm and added to the stream."""

    def __init__(self, shape: Shape, attn_pdrop: float, residual_pdrop: float) -> None:
        super().__init__()
        self.ln1 = norm(shape)
        self.attn = Attention(shape, attn_pdrop)
        self.ln2 = norm(shape)
        self.ffn = SwigluFeedForward(shape) if shape.ffn == "swiglu" else GeluFeedForward(shape)
        self.drop = nn.Dropout(residual_pdrop)

    @override
    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """(batch, time, d_model) to the same."""
        x = x + self.drop(self.attn(self.ln1(x), rotation))
        return x + self.drop(self.ffn(self.ln2(x)))

    def extend(self, x: Tensor, rotation: Tensor | None, places: Places, memory: Memory) -> Tensor:
        """As `forward` in eval mode, of tokens at `places`: see `Attention.extend`."""
        x = x + self.attn.extend(self.ln1(x), rotation, places, memory)
        return x + self.ffn(self.ln2(x))


class BasicsTransformerLM(Remembers):
    """A decoder-only language model.

    Positional arguments are the course's. The keywords choose the modern variant: `ffn="swiglu"`,
    `norm="rmsnorm"`, `positions="rotary"`, `qk_norm=True`, `tied_head=True`.

    Raises:
        ValueError: the sizes make no `Shape`.
    """

    rotation: Tensor  # only with rotary positions
    recompute: bool
    """Keep each block's input alone in training and compute the block again on the way back."""

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        attn_pdrop: float | None = None,
        residual_pdrop: float | None = None,
        *,
        ffn: Ffn = "gelu",
        norm: Norm = "layernorm",
        positions: Positions = "learned",
        qk_norm: bool = False,
        tied_head: bool = False,
    ) -> None:
        shape = Shape(
            vocab_size=vocab_size,
            context_length=context_length,
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            d_ff=d_ff,
            ffn=ffn,
            norm=norm,
            positions=positions,
            qk_norm=qk_norm,
            tied_head=tied_head,
        )
        super().__init__()
        self.shape = shape
        self.attn_pdrop = attn_pdrop or 0.0
        self.residual_pdrop = residual_pdrop or 0.0
        self.recompute = False
        self._build()

    def _build(self) -> None:
        shape = self.shape
        self.token_embeddings = nn.Embedding(shape.vocab_size, shape.d_model)
        if shape.positions == "learned":
            self.position_embeddings = nn.Embedding(shape.context_length, shape.d_model)
        else:
            self.register_buffer("rotation", rotation_table(shape), persistent=False)
        self.drop = nn.Dropout(self.residual_pdrop)
        self.layers = nn.ModuleList(
            Block(shape, self.attn_pdrop, self.residual_pdrop) for _ in range(shape.num_layers)
        )
        self.ln_final = norm(shape)
        self.lm_head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        if shape.tied_head:
            self.lm_head.weight = self.token_embeddings.weight

    @classmethod
    def from_shape(cls, shape: Shape, dropout: float = 0.0) -> Self:
        """A model of `shape`, `dropout` on attention weights and on what joins the stream."""
        return cls(**vars(shape), attn_pdrop=dropout, residual_pdrop=dropout)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model saved in `folder`: `model_config.json` and `model.pt`.

        Raises:
            FileNotFoundError: one of the two is missing.
            RuntimeError: the weights are not those of the configuration.
        """
        config, weights = read_pretrained(Path(folder))
        model = cls(**config)
        model.load_state_dict(weights)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model_config.json` and `model.pt` to `folder`, which is made if need be.

        Only a variant's own settings are written, so the plain decoder's folder is the course's.
        """
        values = vars(self.shape)
        chosen = {f.name: values[f.name] for f in fields(Shape) if values[f.name] != f.default}
        dropout = {"attn_pdrop": self.attn_pdrop, "residual_pdrop": self.residual_pdrop}
        write_pretrained(Path(folder), chosen | dropout, self.state_dict())

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, time), time at most the context, to logits (batch, time, vocab_size)."""
        return self.lm_head(self.trunk(tokens))

    def trunk(self, tokens: Tensor) -> Tensor:
        """All but the head: tokens (batch, time) to (batch, time, d_model)."""
        time = tokens.shape[-1]
        x = self.token_embeddings(tokens)
        turn = None
        if self.shape.positions == "learned":
            x = x + self.position_embeddings.weight[:time]
        else:
            turn = self.rotation[:time]
        x = self.drop(x)
        again = self.recompute and self.training
        for layer in self.layers:
            x = checkpoint(layer, x, turn, use_reentrant=False) if again else layer(x, turn)
        return self.ln_final(x)

    @override
    def memory(self, batch: int) -> list[Memory]:
        like = self.lm_head.weight
        return [Memory(self.shape, batch, like) for _ in self.layers]

    @override
    def extend(self, tokens: Tensor, places: Tensor, memory: Sequence[Memory]) -> Tensor:
        x, turn = self.token_embeddings(tokens), None
        if self.shape.positions == "learned":
            x = x + self.position_embeddings(places)
        else:
            turn = self.rotation[places][:, None]  # for every head
        where = Places.at(places)
        for layer, held in zip(self.layers, memory, strict=True):
            assert isinstance(layer, Block)
            x = layer.extend(x, turn, where, held)
        return self.ln_final(x)

    def generate(
        self,
        x: Tensor | Sequence[Tensor],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        eos_token_id: int | None = None,
        *,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What follows the prompts `x`: see `model.generate.generate`."""
        return generate(
            self,
            x,
            max_new_tokens,
            context_length=self.shape.context_length,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
            eos_token_id=eos_token_id,
            generator=generator,
        )

    def get_num_params(self, non_embedding: bool = True) -> int:
        """Weights, those shared counted once: all but embeddings, the head left in; or all.

        The two are `Shape.params_non_embedding` and `Shape.params`.
        """
        total = sum(weight.numel() for weight in self.parameters())
        return total - self.shape.params_embedding if non_embedding else total


def norm(shape: Shape) -> nn.Module:
    """The normalization `shape` asks for, weight only."""
    if shape.norm == "rmsnorm":
        return nn.RMSNorm(shape.d_model, eps=EPSILON)
    return nn.LayerNorm(shape.d_model, eps=EPSILON, bias=False)


def rotation_table(shape: Shape) -> Tensor:
    """Cosines and sines (context_length, head_size / 2, 2) of RoFormer, section 3.2."""
    exponents = torch.arange(0, shape.head_size, 2) / shape.head_size
    angles = torch.outer(torch.arange(shape.context_length), ROTARY_BASE**-exponents)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def rotate(heads: Tensor, turn: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_size / 2) of `heads` (…, time, head_size) by its angle."""
    cos, sin = turn.unbind(-1)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
