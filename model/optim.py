"""AdamW over weights that share one buffer, and Muon for the matrices among them."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from model.parametrization import BASE_WIDTH, Group, groups, multiplier, share
from model.recipe import Recipe
from model.shape import Shape

ORDER: tuple[Group, ...] = ("embedding", "vector", "head", "hidden")
"""Layout of the buffer: groups of one rate lie together, those that Muon takes at the end."""

EPSILON = 1e-8  # Adam, algorithm 1, arXiv 1412.6980
MOMENTUM = 0.95  # Muon: kellerjordan.github.io/posts/muon
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the same, coefficients of the quintic
ITERATIONS = 5
ADAM_SIZE = 0.2  # root mean square of an AdamW step over its rate: arXiv 2502.16982, section 2.2


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A stretch of the buffers whose weights have one rate and one decay."""

    weights: Tensor
    gradient: Tensor
    moment1: Tensor
    moment2: Tensor
    rate: float
    """Multiple of the recipe's rate."""
    decay: float


class AdamW:
    """AdamW (arXiv 1711.05101) with clipping of the gradient's norm.

    The weights of `model` become views of one buffer, laid out group by group; `gradients` are
    views of another, in the order of `parameters`. So clipping and the step are a handful of
    kernels however many tensors the model has. Build it when the model is on its device.
    """

    takes: tuple[Group, ...] = ORDER
    """Groups that AdamW's rule moves: the first of `ORDER`."""

    def __init__(self, model: nn.Module, recipe: Recipe, shape: Shape) -> None:
        kinds = groups(model)
        shares = {n: share(n, recipe.parametrization, shape.num_layers) for n in kinds}
        named = sorted(
            model.named_parameters(),
            key=lambda item: (ORDER.index(kinds[item[0]]), shares[item[0]]),
        )
        self.names = [name for name, _ in named]
        self.parameters = [weight for _, weight in named]
        self.recipe = recipe
        self.shares = [shares[name] for name in self.names]
        self._kinds = [kinds[name] for name in self.names]
        self._d_model = shape.d_model
        weights = torch.cat([weight.detach().reshape(-1) for weight in self.parameters])
        self.clock = torch.zeros((), device=weights.device)
        self._settle((weights, *torch.zeros(3, len(weights)).to(weights)))

    def move(self, buffers: Sequence[Tensor]) -> None:
        """Go on in other `buffers` (weights,): weights, gradient, first and second moments."""
        here = (self.weights, self.gradient, self.moment1, self.moment2)
        for buffer, before in zip(buffers, here, strict=True):
            buffer.copy_(before)
        self._settle(buffers)

    def _settle(self, buffers: Sequence[Tensor]) -> None:
        """Take `buffers`, and make the model's weights views of the first."""
        self.weights, self.gradient, self.moment1, self.moment2 = buffers
        for weight, view in zip(self.parameters, self._views(self.weights), strict=True):
            weight.data = view
        self.gradients = self._views(self.gradient)
        self._spans = self._divide()

    def _views(self, buffer: Tensor) -> list[Tensor]:
        """`buffer` cut into the shapes of the weights."""
        pieces = buffer.split([weight.numel() for weight in self.parameters])
        return [p.view(w.shape) for p, w in zip(pieces, self.parameters, strict=True)]

    def _divide(self) -> list[_Span]:
        """The buffers cut where rate or decay changes."""
        lengths: list[int] = []
        settings: list[tuple[float, float]] = []
        for kind, part, weight in zip(self._kinds, self.shares, self.parameters, strict=True):
            if kind not in self.takes:
                break
            scale = part * multiplier(kind, self.recipe.parametrization, self._d_model)
            # Decay goes by the rate without the share, as if the factor were apart.
            decay = self.recipe.weight_decay / part if kind in ("hidden", "head") else 0.0
            if settings and settings[-1] == (scale, decay):
                lengths[-1] += weight.numel()
            else:
                settings.append((scale, decay))
                lengths.append(weight.numel())
        taken = sum(lengths)
        buffers = (b[:taken] for b in (self.weights, self.gradient, self.moment1, self.moment2))
        pieces = zip(*(buffer.split(lengths) for buffer in buffers), strict=True)
        return [
            _Span(weights=w, gradient=g, moment1=m, moment2=v, rate=rate, decay=decay)
            for (w, g, m, v), (rate, decay) in zip(pieces, settings, strict=True)
        ]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the weights against `gradient` at `rate` times the recipe's rate."""
        norm = torch.linalg.vector_norm(self.gradient)
        clip = (norm / self.recipe.grad_clip).clamp_(min=1.0)
        self.clock += 1
        for span in self._spans:
            # The kernel behind torch.optim.AdamW(fused=True); `grad_scale` divides the gradient.
            torch._fused_adamw_(
                [span.weights],
                [span.gradient],
                [span.moment1],
                [span.moment2],
                [],
                [self.clock],
                lr=rate * self.recipe.learning_rate * span.rate,
                beta1=self.recipe.beta1,
                beta2=self.recipe.beta2,
                weight_decay=span.decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=clip,
            )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the weights that the next step depends on."""
        return {"moment1": self.moment1, "moment2": self.moment2, "clock": self.clock}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


_Kind = tuple[int, int, float]
"""Rows, columns and share of a matrix: those alike move together."""


class Muon(AdamW):
    """Muon for the blocks' matrices, AdamW for the rest.

    A matrix moves along its momentum with all singular values made one; queries, keys and values
    count as three. The step's size is that of AdamW's, so rates carry over: at every width with
    "standard"; with "mup" at `BASE_WIDTH`, and from there on what it does to activations is kept.
    Matrices are not clipped: the size of their gradient hardly matters.
    """

    takes = ORDER[:-1]

    @override
    def _settle(self, buffers: Sequence[Tensor]) -> None:
        super()._settle(buffers)
        views = (self._views(buffer) for buffer in buffers[:3])
        self._matrices: defaultdict[_Kind, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        for name, kind, part, *whole in zip(
            self.names, self._kinds, self.shares, *views, strict=True
        ):
            if kind == "hidden":
                for matrices in zip(*(_matrices(name, view) for view in whole), strict=True):
                    rows, columns = matrices[0].shape
                    self._matrices[rows, columns, part].append(matrices)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the weights against `gradient` at `rate` times the recipe's rate."""
        super().step(rate)
        for (rows, columns, part), matrices in self._matrices.items():
            weights, gradients, momenta = (list(tensors) for tensors in zip(*matrices, strict=True))
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov
            size = rate * self.recipe.learning_rate
            torch._foreach_mul_(weights, 1 - size * self.recipe.weight_decay)
            moves = orthogonal(torch.stack(ahead)).unbind()
            torch._foreach_add_(weights, moves, alpha=-size * part * self._scale(rows, columns))

    def _scale(self, rows: int, columns: int) -> float:
        """Size of a step over its rate: that of AdamW's at the width where rates are full."""
        if self.recipe.parametrization == "standard":
            return ADAM_SIZE * math.sqrt(max(rows, columns))
        return ADAM_SIZE * math.sqrt(BASE_WIDTH * max(1.0, rows / columns))


def _matrices(name: str, weight: Tensor) -> tuple[Tensor, ...]:
    """The matrices in a weight: queries, keys and values apart; each of a stack of them."""
    parts = weight.chunk(3) if name.endswith("in_proj_weight") else (weight,)
    return tuple(m for part in parts for m in part.reshape(-1, *part.shape[-2:]).unbind())


def orthogonal(matrices: Tensor) -> Tensor:
    """`matrices` (n, rows, columns) with their singular values brought to about one (.7 to 1.2)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return x.transpose(1, 2) if tall else x


def optimizer(model: nn.Module, recipe: Recipe, shape: Shape) -> AdamW:
    """The optimizer that `recipe` names."""
    return {"adamw": AdamW, "muon": Muon}[recipe.optimizer](model, recipe, shape)
