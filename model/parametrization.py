"""First values and relative rates of a decoder's weights, by the part each plays.

"mup" follows the idea of arXiv 2203.03466: with embeddings and vectors at the full rate and
matrices at a rate ∝ 1 / d_model, the best rate hardly moves with width.

"completep" (arXiv 2505.01618, alpha = 1) makes each block's contribution ∝ 1 / num_layers too, so
that it hardly moves with depth either. A factor before a sum is, for AdamW, the same as that factor
in the first values and in the rate of the weights that write to the sum: that is how it is done
here, and the model stays what it is.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from model.recipe import Parametrization

Group = Literal["embedding", "vector", "hidden", "head"]
"""Looked up; gains and biases; the blocks' matrices; the output projection."""

BASE_WIDTH = 16
"""Width at which "mup" gives matrices the full rate; the demo's rates were found there."""

BASE_DEPTH = 2
"""Blocks at which "completep" is "mup"."""


def groups(model: nn.Module) -> dict[str, Group]:
    """Group of each weight by name. One both looked up and multiplied (a tied head) is a head.

    The head is the last linear layer with as many outputs as an embedding has rows.
    """
    modules = list(model.modules())
    tables = [m for m in modules if isinstance(m, nn.Embedding)]
    rows = {m.num_embeddings for m in tables}
    outputs = [m for m in modules if isinstance(m, nn.Linear) and m.out_features in rows]
    head = outputs[-1].weight if outputs else None
    looked_up = {id(m.weight) for m in tables}
    return {
        name: _group(weight, weight is head, id(weight) in looked_up)
        for name, weight in model.named_parameters()
    }


def _group(weight: Tensor, is_head: bool, looked_up: bool) -> Group:
    if is_head:
        return "head"
    if looked_up:
        return "embedding"
    return "vector" if weight.ndim < 2 else "hidden"


def multiplier(group: Group, parametrization: Parametrization, d_model: int) -> float:
    """Rate of a group's weights by width, as a multiple of the recipe's."""
    if parametrization == "standard" or group in ("embedding", "vector"):
        return 1.0
    return BASE_WIDTH / d_model


def share(name: str, parametrization: Parametrization, num_layers: int) -> float:
    """What "completep" multiplies the first values and the rate of a weight by: less than one, in
    deep models, where it writes to the residual stream."""
    if parametrization != "completep" or not _joins_stream(name):
        return 1.0
    return BASE_DEPTH / num_layers


def _joins_stream(name: str) -> bool:
    return name.endswith(("out_proj.weight", "w2.weight", "w2.bias"))


@torch.no_grad()
def initialize(
    model: nn.Module, num_layers: int, parametrization: Parametrization, generator: torch.Generator
) -> None:
    """First values of every weight of a decoder, drawn from `generator` in the weights' order.

    "mup": token embeddings of deviation .5, positions .1, hidden fan_in^-.5, head zero (fan_in^-.5
    when tied). "standard" is GPT-2's .02 everywhere. In both, projections onto the residual stream
    are smaller by √(2 · num_layers), gains one, biases zero. "completep" is "mup" at `BASE_DEPTH`,
    from where those projections are smaller by num_layers / `BASE_DEPTH`.
    """
    scale = _standard_deviation if parametrization == "standard" else _mup_deviation
    depth = math.sqrt(2 * (BASE_DEPTH if parametrization == "completep" else num_layers))
    kinds = groups(model)
    for name, weight in model.named_parameters():
        if kinds[name] == "vector":
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        deviation = scale(name, weight, kinds[name]) / (depth if _joins_stream(name) else 1.0)
        deviation *= share(name, parametrization, num_layers)
        weight.normal_(0.0, deviation, generator=generator)


def _mup_deviation(name: str, weight: Tensor, group: Group) -> float:
    if group == "embedding":
        return 0.1 if "position" in name else 0.5
    if group == "head" and name.endswith("lm_head.weight"):
        return 0.0
    return weight.shape[1] ** -0.5


def _standard_deviation(_name: str, _weight: Tensor, _group: Group) -> float:
    return 0.02  # GPT-2's initializer_range
