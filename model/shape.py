"""A decoder's shape and everything that follows from it by arithmetic. Needs no torch.

Counts follow PaLM, appendix B (arXiv 2204.02311): six FLOPs per weight that multiplies the token
stream, attention scores in full, the embedding lookup free, the head included.
"""

from dataclasses import dataclass, fields
from typing import Literal

from typing_extensions import override

Convention = Literal["exact", "6ND"]
"""How the FLOPs of a trial are counted: every matrix product, or 6 · N · D with N non-embedding."""

Ffn = Literal["gelu", "swiglu"]
Norm = Literal["layernorm", "rmsnorm"]
Positions = Literal["learned", "rotary"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a decoder-only transformer.

    Raises:
        ValueError: a size is not positive, or `d_model` is not a multiple of `num_heads`.
    """

    d_model: int
    """Width of the residual stream."""
    num_layers: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads a block; head size is `d_model / num_heads`."""
    d_ff: int
    """Hidden width of the feed-forward part."""
    vocab_size: int
    """Distinct tokens."""
    context_length: int
    """Tokens a sequence."""
    ffn: Ffn = "gelu"
    """GELU with biases (two matrices), or SwiGLU without (three)."""
    norm: Norm = "layernorm"
    """Pre-norm, weight only."""
    positions: Positions = "learned"
    """A table added to the embedding, or a rotation of queries and keys."""
    qk_norm: bool = False
    """Normalise queries and keys a head (one weight vector of head size each, per block)."""
    tied_head: bool = False
    """The head shares the embedding's weights: they are counted once, as `params_head`."""

    def __post_init__(self) -> None:
        sizes = ("d_model", "num_layers", "num_heads", "d_ff", "vocab_size", "context_length")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.d_model % self.num_heads:
            raise ValueError(
                f"d_model must be a multiple of num_heads, got {self.d_model} and {self.num_heads}"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head size, got {self.head_size}")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    @property
    def plain(self) -> bool:
        """The course's decoder, no variant of it."""
        variant = (self.ffn, self.norm, self.positions, self.qk_norm, self.tied_head)
        return variant == ("gelu", "layernorm", "learned", False, False)

    @property
    def params_embedding(self) -> int:
        """Weights looked up, not multiplied: tokens (unless tied) and learned positions."""
        tokens = 0 if self.tied_head else self.vocab_size * self.d_model
        positions = self.context_length * self.d_model if self.positions == "learned" else 0
        return tokens + positions

    @property
    def params_head(self) -> int:
        """Weights of the output projection."""
        return self.vocab_size * self.d_model

    @property
    def matrix_params(self) -> int:
        """Weights of the blocks' matrices: 12 · num_layers · d_model² at `d_ff = 4 · d_model`."""
        matrices = 3 if self.ffn == "swiglu" else 2
        return self.num_layers * (4 * self.d_model**2 + matrices * self.d_model * self.d_ff)

    @property
    def params_transformer(self) -> int:
        """Weights of the blocks and the final norm: neither embeddings nor head."""
        biases = self.d_ff + self.d_model if self.ffn == "gelu" else 0
        qk = 2 * self.head_size if self.qk_norm else 0
        vectors = self.num_layers * (2 * self.d_model + biases + qk) + self.d_model
        return self.matrix_params + vectors

    @property
    def params_non_embedding(self) -> int:
        """The default N of `6ND` and of fits on our own tables: all but embeddings."""
        return self.params_transformer + self.params_head

    @property
    def params(self) -> int:
        """All weights."""
        return self.params_embedding + self.params_non_embedding

    @property
    def flops_per_token_forward(self) -> int:
        """FLOPs of one token's forward pass: every matrix product, attention scores in full."""
        attention = 4 * self.num_layers * self.context_length * self.d_model
        return 2 * (self.matrix_params + self.params_head) + attention

    def flops_per_token(self, convention: Convention = "exact") -> int:
        """Training FLOPs per token, forward and backward, by the convention named."""
        if convention == "6ND":
            return 6 * self.params_non_embedding
        return 3 * self.flops_per_token_forward

    def flops_per_step(self, batch_size: int, convention: Convention = "exact") -> int:
        """Training FLOPs of one optimizer step on `batch_size` sequences."""
        return batch_size * self.context_length * self.flops_per_token(convention)

    def steps(self, budget: float, batch_size: int, convention: Convention = "exact") -> int:
        """The most whole optimizer steps whose FLOPs fit in `budget`."""
        return int(budget) // self.flops_per_step(batch_size, convention)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What `model.custom` counts in a module that is not the shipped decoder."""

    params_embedding: int
    params_head: int
    params_transformer: int
    """All other weights."""
    flops_forward: int
    """Of one sequence of the whole context, FLOP."""
    flops: int
    """Of one sequence, forward and backward, FLOP."""
    kept: int
    """Bytes that one sequence keeps for the way back in float32, attention scores in full."""


@dataclass(frozen=True, kw_only=True)
class CountedShape(Shape):
    """The shape that somebody's own module was built from, with the counts of that module."""

    counts: Counts

    @property
    def asked(self) -> Shape:
        """The shape alone, as the module's builder gets it."""
        return Shape(**{field.name: getattr(self, field.name) for field in fields(Shape)})

    @property
    @override
    def params_embedding(self) -> int:
        return self.counts.params_embedding

    @property
    @override
    def params_head(self) -> int:
        return self.counts.params_head

    @property
    @override
    def params_transformer(self) -> int:
        return self.counts.params_transformer

    @property
    @override
    def flops_per_token_forward(self) -> int:
        return self.counts.flops_forward // self.context_length

    @override
    def flops_per_token(self, convention: Convention = "exact") -> int:
        if convention == "6ND":
            return super().flops_per_token(convention)
        return self.counts.flops // self.context_length

    @override
    def flops_per_step(self, batch_size: int, convention: Convention = "exact") -> int:
        if convention == "6ND":
            return super().flops_per_step(batch_size, convention)
        return batch_size * self.counts.flops
