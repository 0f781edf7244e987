"""Mean cross-entropy behind a linear head and its gradient, never with all logits at once.

Softmax and loss of a row of logits need no other row: each part of the rows is multiplied, scored
and multiplied back before the next, so that as many products are computed as ever and all rows'
logits are never held. What liger-kernel does on a GPU (arXiv 2410.10989), in operations of torch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Part = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def head_loss(
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    gradient: Tensor,
    *,
    scale: float,
    rows: int,
    part: Part | None = None,
) -> tuple[Tensor, Tensor]:
    """`scale` times the summed loss of all rows, float32, and its gradient by `h`.

    Several heads, each with rows of its own, have one axis more in front; so do their losses.

    Args:
        h: (…, all rows, d_model), in the dtype of the products.
        weight: of the head, (…, vocab_size, d_model).
        targets: (…, all rows).
        gradient: (…, vocab_size, d_model), float32: the head's is added to it.
        scale: what a row's loss counts.
        rows: at once.
        part: `of_part`, or the same compiled.
    """
    call = part or of_part
    weight = weight.to(h.dtype)
    loss = torch.zeros(h.shape[:-2], device=h.device)
    slopes = torch.empty_like(h)
    cut = h.split(rows, -2), targets.split(rows, -1), slopes.split(rows, -2)
    pieces = zip(*cut, strict=True)
    for some, wanted, slope in pieces:
        lost, dh, dweight = call(some, weight, wanted, scale)
        loss += lost
        slope.copy_(dh)
        gradient += dweight
    return loss, slopes


def of_part(
    h: Tensor, weight: Tensor, targets: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of a part of the rows, its gradient by `h` and by `weight`; softmax in float32."""
    log_chances = (h @ weight.mT).float().log_softmax(dim=-1)
    index = targets[..., None]
    loss = log_chances.gather(-1, index).sum((-2, -1)) * -scale
    slope = log_chances.exp_()
    slope = slope.scatter_add_(-1, index, slope.new_full(index.shape, -1.0)).mul_(scale).to(h.dtype)
    return loss, slope @ weight, slope.mT @ h
