"""A real decoder near a wanted number of weights, by arithmetic alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.tables import Count

HEAD_SIZES = ((16, 8), (128, 16), (512, 32), (2048, 64), (float("inf"), 128))
"""Head size for widths up to the first number: small heads let small widths have several."""
MATCH_WEIGHT = 8.0
"""What being off in N costs beside being off in width to depth, both as logarithms."""
LAYERS = 160


@dataclass(frozen=True, kw_only=True)
class ProposedShape:
    """A decoder near the asked number of weights. Feed-forward width is 4 · d_model."""

    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int
    params: int
    """Weights by the convention of the fit."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What of a shape the budget does not decide."""

    count: Count
    """Which weights N counts."""
    vocab_size: int
    """Distinct tokens; 0 where the runs do not say: then the head is not counted."""
    context_length: int
    """Tokens a sequence; 0 where the runs do not say."""

    def params(self, d_model: int, num_layers: int) -> int:
        """Weights of a plain decoder: untied head, learned positions, GELU with biases."""
        blocks = num_layers * (12 * d_model**2 + 7 * d_model) + d_model
        head = d_model * self.vocab_size
        if self.count == "transformer":
            return blocks
        if self.count == "total":
            return blocks + 2 * head + d_model * self.context_length
        return blocks + head


def proposed_shape(params: float, around: Surroundings) -> ProposedShape:
    """The decoder that best joins a match in N with a usual ratio of width to depth."""
    return min(_candidates(params, around), key=lambda shape: _cost(shape, params))


def _candidates(params: float, around: Surroundings) -> Iterator[ProposedShape]:
    """For each depth, the widths on either side of the wanted N."""
    for num_layers in range(1, LAYERS + 1):
        exact = _width(params, num_layers, around)
        step = head_size(exact)
        below = max(step * int(exact // step), step)
        for d_model in (below, below + step):
            yield ProposedShape(
                d_model=d_model, num_layers=num_layers, num_heads=d_model // step,
                d_ff=4 * d_model, params=around.params(d_model, num_layers),
            )  # fmt: skip


def _width(params: float, num_layers: int, around: Surroundings) -> float:
    """The width, not rounded, that gives `params`: N is a quadratic in d_model."""
    square = 12 * num_layers
    linear = around.params(1, num_layers) - square
    return float((np.sqrt(linear**2 + 4 * square * params) - linear) / (2 * square))


def _cost(shape: ProposedShape, params: float) -> float:
    off_size = abs(np.log(shape.params / params))
    off_ratio = abs(np.log(shape.d_model / shape.num_layers / usual_ratio(params)))
    return float(MATCH_WEIGHT * off_size + off_ratio)


def usual_ratio(params: float) -> float:
    """Width over depth in use: about 24 at 1e4 weights, 64 at 1e8, 100 at 7e10.

    GPT-2 small 768 / 12, Chinchilla 8192 / 80 (arXiv 2203.15556, table 4); the small end is where
    one-layer models stop being best in this project's own sweeps.
    """
    return float(np.interp(np.log10(params), [4.0, 8.0, 10.85], [24.0, 64.0, 102.0]))


def head_size(d_model: float) -> int:
    """Width of one head at this width of the residual stream."""
    return next(size for limit, size in HEAD_SIZES if d_model <= limit)
