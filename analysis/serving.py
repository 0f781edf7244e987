"""Allocation for a model that will also serve: training plus inference FLOPs at equal loss.

Sardana et al., arXiv 2401.00448: a smaller model trained longer pays back on every token served.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from analysis.laws import LossLaw

FLOPS_PER_SERVED_TOKEN = 2.0
"""Per weight: a forward pass alone."""
SMALLEST_SHARE = 1e-4
"""Of what loss remains to be removed, left to tokens: bounds the search at the smallest model."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A model, its training and its service."""

    params: float
    tokens: float
    """Training tokens."""
    loss: float
    """nat/token."""
    training_flops: float
    serving_flops: float
    served: float
    """Tokens of its life, prompt and answer."""
    compute_optimal_flops: float
    """What the compute-optimal model of this loss would take, trained and serving as much."""

    @property
    def flops(self) -> float:
        """Training and serving together."""
        return self.training_flops + self.serving_flops

    def to_dict(self) -> dict[str, float]:
        """As JSON holds it."""
        return {**vars(self), "flops": self.flops}


def deployment(law: LossLaw, budget: float, served: float) -> Deployment:
    """The cheapest model over its life that is as good as `budget` FLOP of training can make one.

    `served` is the lifetime of tokens, prompt and answer. With 0 it is the compute-optimal model.
    """
    lowest = law.reducible(law.n_opt(budget), law.d_opt(budget))
    reducible = float(lowest ** (1 / law.k))
    smallest = np.log(float(law.A) / reducible / (1 - SMALLEST_SHARE)) / float(law.alpha)
    largest = np.log(float(law.n_opt(budget)))

    def tokens(log_params: float) -> float:
        left = reducible - float(law.A) * np.exp(-float(law.alpha) * log_params)
        return float((float(law.B) / left) ** (1 / float(law.beta)))

    def cost(log_params: float) -> float:
        params = np.exp(log_params)
        each = law.flops(params, tokens(log_params)) + FLOPS_PER_SERVED_TOKEN * params * served
        return float(np.log(each))

    # Serving only ever makes the model smaller: the optimum lies below N_opt.
    found = minimize_scalar(
        cost, bounds=(smallest, largest + 1e-9), method="bounded", options={"xatol": 1e-10}
    )
    params, trained = float(np.exp(found.x)), tokens(float(found.x))
    return Deployment(
        params=params, tokens=trained, loss=float(law.loss_opt(budget)),
        training_flops=float(law.flops(params, trained)),
        serving_flops=FLOPS_PER_SERVED_TOKEN * params * served, served=served,
        compute_optimal_flops=budget + FLOPS_PER_SERVED_TOKEN * float(law.n_opt(budget)) * served,
    )  # fmt: skip
