"""Weights, gradients and moments split over a group: for models too large for one device.

torch's FSDP2 (`fully_shard`) splits the model; the optimizer is AdamW's rule on the pieces, with
the rates and the decay of `model.optim` and one norm over all of them.
"""

from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import cross_entropy

from model.execution import Execution
from model.optim import EPSILON
from model.parallel import Group, share
from model.parametrization import groups, multiplier
from model.parametrization import share as depth_share
from model.recipe import Recipe
from model.shape import Shape
from model.transformer import BasicsTransformerLM


def split(model: nn.Module) -> None:
    """Split `model` over torch's default process group: a block at a time, then what is left."""
    if isinstance(model, BasicsTransformerLM):
        for block in model.layers:
            fully_shard(block)
    fully_shard(model)


class ShardedAdamW:
    """AdamW on this partner's pieces, one kernel for all weights of one rate and decay.

    Args:
        model: after `split`.
        recipe: rates, decay and the rest.
        shape: of the model.

    Raises:
        ValueError: the recipe wants Muon, whose matrices must be whole.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, shape: Shape) -> None:
        if recipe.optimizer != "adamw":
            raise ValueError(f"optimizer {recipe.optimizer} needs whole matrices; take adamw")
        self.recipe = recipe
        self.weights: dict[str, DTensor] = {}
        for name, weight in model.named_parameters():
            assert isinstance(weight, DTensor)
            self.weights[name] = weight
        self.moments = {
            name: (torch.zeros_like(_local(w)), torch.zeros_like(_local(w)))
            for name, w in self.weights.items()
        }
        device = next(iter(self.moments.values()))[0].device
        self.clock = torch.zeros((), device=device)
        kinds = groups(model)
        self._spans: defaultdict[tuple[float, float], list[str]] = defaultdict(list)
        for name, kind in kinds.items():
            part = depth_share(name, recipe.parametrization, shape.num_layers)
            scale = part * multiplier(kind, recipe.parametrization, shape.d_model)
            decay = recipe.weight_decay / part if kind in ("hidden", "head") else 0.0
            self._spans[scale, decay].append(name)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the weights against their gradients at `rate` times the recipe's rate."""
        clip = (self._norm() / self.recipe.grad_clip).clamp_(min=1.0)
        self.clock += 1
        for (scale, decay), names in self._spans.items():
            torch._fused_adamw_(
                [_local(self.weights[name]) for name in names],
                [_gradient(self.weights[name]) for name in names],
                [self.moments[name][0] for name in names],
                [self.moments[name][1] for name in names],
                [],
                [self.clock.clone() for _ in names],
                lr=rate * self.recipe.learning_rate * scale,
                beta1=self.recipe.beta1,
                beta2=self.recipe.beta2,
                weight_decay=decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=clip,
            )

    def _norm(self) -> Tensor:
        """Of the whole gradient, every partner's pieces together."""
        norms = [torch.linalg.vector_norm(_gradient(w)) ** 2 for w in self.weights.values()]
        square = torch.stack(norms).sum()
        dist.all_reduce(square)
        return square.sqrt()

    def state_dict(self) -> dict[str, Tensor]:
        """The whole moments, put together; every partner calls."""
        whole = {"clock": self.clock}
        for name, pair in self.moments.items():
            for number, moment in enumerate(pair, 1):
                whole[f"moment{number}.{name}"] = _whole(moment, self.weights[name])
        return whole

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take this partner's pieces of what `state_dict` gave."""
        self.clock.copy_(state["clock"])
        for name, pair in self.moments.items():
            for number, moment in enumerate(pair, 1):
                moment.copy_(_piece(state[f"moment{number}.{name}"], self.weights[name]))


class ShardedGradient:
    """The gradient of a split model: torch gathers weights and averages gradients as it goes."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: ShardedAdamW,
        recipe: Recipe,
        execution: Execution,
        group: Group,
    ) -> None:
        assert isinstance(model, FSDPModule)
        if isinstance(model, BasicsTransformerLM):
            model.recompute = execution.recompute
        self.split: FSDPModule = model
        self.model: nn.Module = model
        self.optimizer = optimizer
        self.group = group
        self.parts = execution.parts(recipe.batch_size)
        kind = torch.device(execution.device).type
        dtype = getattr(torch, recipe.dtype)
        self.precision = torch.autocast(kind, dtype, enabled=dtype != torch.float32)

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `model.gradient.Gradient`; the gradient stays with the weights' pieces."""
        # Not the model's parameters: after an evaluation those are the gathered ones.
        for weight in self.optimizer.weights.values():
            weight.grad = None
        loss = torch.zeros((), device=tokens.device)
        parts = share(tokens, self.group).chunk(self.parts)
        for number, part in enumerate(parts, 1):
            self.split.set_requires_gradient_sync(number == self.parts)
            with self.precision:
                logits = self.model(part[:, :-1])
            if logits.device.type != "cpu":
                logits = logits.float()  # as in `model.gradient`
            mean = cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) / self.parts
            mean.backward()
            loss += mean.detach()
        self.group.average(loss)
        return loss


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a split model, put together; every partner calls."""
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in model.state_dict().items()
    }


def load_whole_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Take this partner's pieces of whole weights."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if isinstance(value, DTensor):
                _local(value).copy_(_piece(state[name], value))
            else:
                value.copy_(state[name])


def _local(weight: DTensor) -> Tensor:
    return weight.to_local()


def _gradient(weight: DTensor) -> Tensor:
    assert isinstance(weight.grad, DTensor)
    return weight.grad.to_local()


def _whole(piece: Tensor, weight: DTensor) -> Tensor:
    placed = DTensor.from_local(
        piece, weight.device_mesh, weight.placements, shape=weight.shape, stride=weight.stride()
    )
    return placed.full_tensor()


def _piece(whole: Tensor, weight: DTensor) -> Tensor:
    return distribute_tensor(
        whole.to(weight.device), weight.device_mesh, weight.placements
    ).to_local()
