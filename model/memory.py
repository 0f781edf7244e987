"""How much memory a training takes, and so how much of a batch to compute at once. No torch.

Upper bounds: `tests/model/test_model_memory.py` holds them against what torch really keeps.
"""

import math
from dataclasses import dataclass, replace

from model.shape import CountedShape, Shape

USABLE = 0.8
"""Share of a device's memory to plan with: the rest is the runtime's, and lost between blocks."""
MASTER = 4 * 4
"""Bytes a weight: itself, its gradient and two moments, in float32."""
LOGIT = 16
"""Bytes a logit: itself, its log-softmax and their gradients, in float32 and half of it twice."""
LOGITS = 2**32
"""Bytes of logits at once, at most: 5,000 rows of GPT-2's vocabulary. Each part reads and writes
the head's gradient: in parts of a quarter that was 5 % of a 125M model's step on an H200."""
LOGITS_SHARE = 1 / 16
"""Share of a trial's memory that they may have, where that is less."""
DEVICES = (1, 2, 4, 8, 16, 32, 64)
"""That a model may be split over, where the number is left open."""
FEWEST_ROWS = 256
"""Rows of logits at once, at least: so many are as fast on a CPU as all of them (measured:
tests/benchmarks/logits.py)."""


class TooLargeError(Exception):
    """One sequence of a model does not fit in memory, however it is computed."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a batch is computed so that it fits."""

    micro_batch_size: int
    """Sequences at once."""
    recompute: bool
    """Keep a block's input alone and compute the block again on the way back."""
    logit_rows: int | None
    """Tokens whose logits are held at once; None: all of a micro-batch's."""
    devices: int = 1
    """Among which the batch is shared out."""
    sharded: bool = False
    """Weights, gradients and moments are split over them, too."""


def spread(
    shape: Shape,
    batch_size: int,
    memory: float,
    dtype: str = "float32",
    *,
    fused: bool = False,
    devices: int | None = 1,
    at_most: int = DEVICES[-1],
) -> Split:
    """As `fit`, on several devices of `memory` each; weights are split only where they must be.

    Args:
        shape: of the model.
        batch_size: sequences, shared out among the devices.
        memory: of each, byte.
        dtype: of products.
        fused: attention never writes its scores down.
        devices: how many; None: one, or as few as the weights fit in when they are split.
        at_most: devices that there are, where their number is left open.

    Raises:
        TooLargeError: one sequence does not fit, however many devices there are.
    """
    open_to = [n for n in DEVICES if batch_size % n == 0 and n <= at_most]
    counts = (devices,) if devices else open_to
    ways = [(n, n) for n in counts] if devices is None else [(n, s) for n in counts for s in (1, n)]
    failed: TooLargeError | None = None
    for count, shards in dict.fromkeys(ways):
        try:
            share = batch_size // count
            found = fit(shape, share, memory, dtype, fused=fused, shards=shards)
        except TooLargeError as error:
            failed = error
        else:
            return replace(found, devices=count, sharded=shards > 1)
    raise failed or TooLargeError(f"a batch of {batch_size} is no device's")


def fit(
    shape: Shape,
    batch_size: int,
    memory: float,
    dtype: str = "float32",
    *,
    fused: bool = False,
    shards: int = 1,
) -> Split:
    """The largest micro-batch that divides `batch_size` and fits in `memory`, byte.

    Blocks are computed twice only where not even one sequence fits otherwise. `fused` attention
    never writes its scores down. Weights are split into `shards`, of which this device has one.

    Raises:
        TooLargeError: one sequence does not fit even then.
    """
    needed = 0
    for recompute in (False, True):
        for size in divisors(batch_size):
            rows = None if shards > 1 else logit_rows(shape, size, memory)
            needed = training_bytes(
                shape, size, dtype,
                recompute=recompute, fused=fused, logit_rows=rows, in_parts=size < batch_size,
                split=shards > 1,
            ) - _elsewhere(shape, shards)  # fmt: skip
            if needed <= USABLE * memory:
                return Split(micro_batch_size=size, recompute=recompute, logit_rows=rows)
    raise TooLargeError(
        f"{shape.num_layers}x{shape.d_model}: one sequence takes {needed / USABLE / 2**30:.3g} GiB"
        f"{f' on each of {shards} devices' if shards > 1 else ''}, a trial has "
        f"{memory / 2**30:.3g}; take it off the ladder, shorten context_length, or "
        "give a trial more memory"
    )


def _elsewhere(shape: Shape, shards: int) -> int:
    """Bytes of weights, gradients and moments that lie on other devices.

    Embeddings, head and two blocks are gathered at once, with their gradients.
    """
    if shards == 1:
        return 0
    blocks = (shape.params - shape.params_embedding - shape.params_head) // shape.num_layers
    gathered = shape.params_embedding + shape.params_head + 2 * blocks
    return max(0, shape.params * MASTER * (shards - 1) // shards - 2 * 4 * gathered)


def logit_rows(shape: Shape, micro_batch_size: int, memory: float) -> int | None:
    """Tokens whose logits are held at once, about equally many each time; None: all.

    A loss in parts takes no more arithmetic, so it is a question of memory alone: no more than
    `LOGITS` bytes of logits, or `LOGITS_SHARE` of `memory`. Of somebody's own module all are held.
    """
    rows = micro_batch_size * shape.context_length
    allowed = min(LOGITS, LOGITS_SHARE * memory) / (LOGIT * shape.vocab_size)
    parts = math.ceil(rows / max(FEWEST_ROWS, allowed))
    return None if parts == 1 or isinstance(shape, CountedShape) else math.ceil(rows / parts)


def divisors(batch_size: int, at_most: int | None = None) -> list[int]:
    """Divisors of `batch_size`, largest first."""
    largest = batch_size if at_most is None else min(batch_size, at_most)
    return [size for size in range(largest, 0, -1) if batch_size % size == 0]


def training_bytes(
    shape: Shape,
    micro_batch_size: int,
    dtype: str = "float32",
    *,
    recompute: bool = False,
    fused: bool = False,
    logit_rows: int | None = None,
    in_parts: bool = False,
    split: bool = False,
) -> int:
    """Bytes that training `shape` takes at most, `micro_batch_size` sequences at a time.

    On a CPU, where attention is not `fused`, the gradient is written out unless blocks are computed
    twice: bfloat16 keeps weights and gradient of that, too, and a batch `in_parts` the sum of its
    parts' gradients. By autograd there is a gradient before it is where the optimizer reads it,
    unless weights are `split` over devices.
    """
    written_out = not (fused or recompute)
    rows = micro_batch_size * shape.context_length
    half = dtype != "float32"
    if isinstance(shape, CountedShape):  # a module of which no more is known than what it keeps
        logits = LOGIT * rows * shape.vocab_size
        aside = 2 if split else 6
        return shape.params * (MASTER + aside) + micro_batch_size * shape.counts.kept + logits
    weights = shape.params * MASTER
    weights += ((4 if written_out else 2) * shape.params_non_embedding) if half else 0
    aside = not split and (in_parts or not written_out)
    weights += 4 * shape.params if aside else 0
    a_block = rows * _block_bytes(shape, half=half, fused=fused)
    stream = 4 * rows * shape.d_model
    blocks = (stream if recompute else a_block) * shape.num_layers
    # Besides what is kept: the block at work, and the stream's gradient, norm and copies.
    return weights + blocks + a_block + 8 * stream + _loss_bytes(shape, rows, logit_rows)


def _loss_bytes(shape: Shape, rows: int, at_once: int | None) -> int:
    """Bytes of logits; in parts, besides, the head's gradient of one and the head rounded."""
    if at_once is None:
        return LOGIT * rows * shape.vocab_size
    return LOGIT * at_once * shape.vocab_size + 6 * shape.params_head


def _block_bytes(shape: Shape, *, half: bool, fused: bool) -> int:
    """Bytes a token that one block keeps for the way back."""
    d, product = shape.d_model, 2 if half else 4
    matrices = 4 if shape.ffn == "swiglu" else 2
    bytes_ = 4 * 2 * d + product * (6 * d + matrices * shape.d_ff)
    bytes_ += 4 * 2 * d if shape.norm == "rmsnorm" else 0
    bytes_ += 4 * 3 * d if shape.positions == "rotary" else 0
    bytes_ += 4 * 6 * d if shape.qk_norm else 0
    return bytes_ + (0 if fused else 4 * shape.num_heads * shape.context_length)
