"""A grid: each crossing of a size and a number of tokens is a budget of its own."""

import math
from collections.abc import Mapping
from functools import cache
from itertools import product

from model.shape import Convention, Shape
from tuner.config import Sweep
from tuner.ladder import Size, full_shape
from tuner.sections import Shapes


def crossings(sweep: Sweep, vocab_size: int) -> Mapping[tuple[float, Size], int]:
    """The number of tokens asked for, by (budget, size); a budget is what the crossing costs."""
    batch_sizes = tuple(sweep.batch_size(tokens) for tokens in sweep.grid.tokens)
    levels = tuple(zip(sweep.grid.tokens, batch_sizes, strict=True))
    return _crossings(sweep.shapes, sweep.model, levels, sweep.convention, vocab_size)


def whole_steps(tokens: int, batch_size: int, shape: Shape) -> int:
    """The most optimizer steps within `tokens`."""
    return tokens // (batch_size * shape.context_length)


@cache
def _crossings(
    options: Shapes,
    model: str,
    levels: tuple[tuple[int, int], ...],
    convention: Convention,
    vocab_size: int,
) -> Mapping[tuple[float, Size], int]:
    found: dict[tuple[float, Size], int] = {}
    for (tokens, batch_size), size in product(levels, options.ladder):
        shape = full_shape(options, model, size, vocab_size)
        flops = whole_steps(tokens, batch_size, shape) * shape.flops_per_step(
            batch_size, convention
        )
        # Beyond 2**53 a float may fall below; a trial never spends more than its budget.
        budget = float(flops) if float(flops) >= flops else math.nextafter(flops, math.inf)
        found[budget, size] = tokens
    return found
