"""Real shapes from (num_layers, d_model), and a ladder of them around the predicted optima."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile

from model.shape import Shape
from tuner.config import Sweep
from tuner.errors import ConfigError
from tuner.sections import Shapes

Size = tuple[int, int]
"""(num_layers, d_model): how a ladder names a shape."""


def shape(sweep: Sweep, size: Size, vocab_size: int) -> Shape:
    """The ladder's (num_layers, d_model) as a full shape."""
    return full_shape(sweep.shapes, sweep.model, size, vocab_size)


@cache
def full_shape(options: Shapes, model: str, size: Size, vocab_size: int) -> Shape:
    """A sweep's (num_layers, d_model) as a full shape, by its `[shapes]` and its `model` alone."""
    num_layers, d_model = size
    try:
        filled = _filled(options, num_layers, d_model, vocab_size)
    except ValueError as error:
        raise ConfigError(
            f"shapes.ladder: {num_layers}x{d_model}: {error}; choose another width or head_size"
        ) from None
    return _counted(model, filled) if model else filled


def _counted(model: str, shape: Shape) -> Shape:
    # Here alone planning needs torch: nothing else can count what somebody else wrote.
    from model.custom import ModelError, counted  # noqa: PLC0415

    try:
        return counted(model, shape)
    except ModelError as error:
        raise ConfigError(f"model: {error}") from None


def _filled(options: Shapes, num_layers: int, d_model: int, vocab_size: int) -> Shape:
    return Shape(
        d_model=d_model,
        num_layers=num_layers,
        num_heads=_heads(d_model, options),
        d_ff=4 * d_model if options.ffn == "gelu" else 8 * round(d_model / 3),
        vocab_size=vocab_size,
        context_length=options.context_length,
        ffn=options.ffn,
        norm=options.norm,
        positions=options.positions,
        qk_norm=options.qk_norm,
        tied_head=options.tied_head,
    )


def _heads(d_model: int, options: Shapes) -> int:
    """The most heads of equal width, none narrower than `head_size`; at least one."""
    most = min(d_model // options.head_size, options.max_heads or d_model)
    return next((h for h in range(most, 1, -1) if d_model % h == 0), 1)


SPREAD = 8.0
"""A built ladder reaches this factor in N below and above the predicted optima."""
STEP = 1.4
"""Smallest ratio of N between neighbours of a built ladder."""
ASPECT = 64
"""Width to depth of a built ladder: GPT-3 small, 768 / 12 (arXiv 2005.14165, table 2.1)."""


def built(sweep: Sweep, vocab_size: int) -> tuple[Size, ...]:
    """Sizes from below the smallest budget's predicted optimum to above the largest one's."""
    low, high = (_guess(sweep, budget) for budget in (sweep.budgets[0], sweep.budgets[-1]))
    sizes: list[Size] = []
    last = 0.0
    for size, params in _family(sweep, vocab_size):
        if params > high * SPREAD and len(sizes) >= 3:
            break
        if params >= low / SPREAD and params >= last * STEP:
            sizes.append(size)
            last = params
    return tuple(sizes)


def lengthened(
    sweep: Sweep, sizes: Sequence[Size], vocab_size: int, count: int
) -> tuple[Size, ...]:
    """A built ladder, fewest weights first, with `count` more sizes at each end; below, as far as
    there are any."""
    ends = (shape(sweep, size, vocab_size).params_non_embedding for size in (sizes[0], sizes[-1]))
    first, last = map(float, ends)
    narrower = list(takewhile(lambda found: found[1] < first, _family(sweep, vocab_size)))
    below: list[Size] = []
    for size, params in reversed(narrower):
        if len(below) < count and params * STEP <= first:
            below.insert(0, size)
            first = params
    above: list[Size] = []
    for size, params in _family(sweep, vocab_size):
        if len(above) == count:
            break
        if params >= last * STEP:
            above.append(size)
            last = params
    return (*below, *sizes, *above)


def _family(sweep: Sweep, vocab_size: int) -> Iterator[tuple[Size, float]]:
    """Every size that may stand on a built ladder, with its non-embedding weights, rising."""
    for width in _widths(sweep.shapes.head_size):
        size = (max(1, round(width / ASPECT)), width)
        yield size, float(shape(sweep, size, vocab_size).params_non_embedding)


def _guess(sweep: Sweep, budget: float) -> float:
    return math.sqrt(budget / (6 * sweep.shapes.tokens_per_param))


def _widths(head_size: int) -> list[int]:
    narrow = range(8, head_size, 8)
    return [*narrow, *range(head_size, 1024 * head_size, head_size)]
