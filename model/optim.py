"""AdamW over weights that share one buffer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.parametrization import Group, groups, multiplier
from model.recipe import Recipe

ORDER: tuple[Group, ...] = ("embedding", "vector", "hidden", "head")
"""Layout of the buffer: groups of one rate lie together."""

EPSILON = 1e-8  # Adam, algorithm 1, arXiv 1412.6980


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

    def __init__(self, model: nn.Module, recipe: Recipe, d_model: int) -> None:
        kinds = groups(model)
        named = sorted(model.named_parameters(), key=lambda item: ORDER.index(kinds[item[0]]))
        self.names = [name for name, _ in named]
        self.parameters = [weight for _, weight in named]
        self.weights = torch.cat([weight.detach().reshape(-1) for weight in self.parameters])
        self.gradient, self.moment1, self.moment2 = torch.zeros(3, len(self.weights)).to(
            self.weights
        )
        self.clock = torch.zeros((), device=self.weights.device)
        self.recipe = recipe
        for weight, view in zip(self.parameters, self._views(self.weights), strict=True):
            weight.data = view
        self.gradients = self._views(self.gradient)
        self._spans = self._divide([kinds[name] for name, _ in named], d_model)

    def _views(self, buffer: Tensor) -> list[Tensor]:
        """`buffer` cut into the shapes of the weights."""
        pieces = buffer.split([weight.numel() for weight in self.parameters])
        return [p.view(w.shape) for p, w in zip(pieces, self.parameters, strict=True)]

    def _divide(self, kinds: list[Group], d_model: int) -> list[_Span]:
        """The buffers cut where rate or decay changes."""
        settings: dict[tuple[float, float], int] = {}
        for kind, weight in zip(kinds, self.parameters, strict=True):
            scale = multiplier(kind, self.recipe.parametrization, d_model)
            decay = self.recipe.weight_decay if kind in ("hidden", "head") else 0.0
            settings[scale, decay] = settings.get((scale, decay), 0) + weight.numel()
        buffers = (self.weights, self.gradient, self.moment1, self.moment2)
        pieces = zip(*(buffer.split(list(settings.values())) for buffer in buffers), strict=True)
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
