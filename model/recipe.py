"""What a training is told apart from its shape, and the rate of each step. Needs no torch."""

import math
from dataclasses import dataclass, replace
from typing import Literal

Schedule = Literal["linear", "cosine", "constant", "wsd"]
Parametrization = Literal["mup", "standard", "completep"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, apart from the shape and the length of the run.

    Raises:
        ValueError: a value is out of range; all such are named.
    """

    learning_rate: float
    """Peak rate of embeddings; matrices follow by `parametrization`."""
    batch_size: int
    """Sequences a step."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, times their rate; embeddings, gains and biases have none."""
    warmup: float = 0.15
    """Share of the run in which the rate rises linearly; 0 starts at the peak."""
    warmup_floor: int = 0
    """Fewest steps of a warm-up, where there is one and the run is long enough."""
    schedule: Schedule = "linear"
    """Shape of the rate after warm-up; "wsd" stays at the peak until `cooldown`."""
    final_fraction: float = 0.0
    """Share of the peak that the rate comes down to at the end of the run."""
    cooldown: float = 0.2
    """Share of the run in which "wsd" comes down, linearly."""
    cooldown_floor: int = 100
    """Fewest steps of that, where the run is long enough: a share alone leaves wide models, whose
    runs are short, too few."""
    beta1: float = 0.9
    """Decay of the first moment, per step."""
    beta2: float = 0.99
    """Decay of the second moment, per step."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient; infinity never clips."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Rule of the step; "muon" is for the blocks' matrices, with AdamW for the rest."""
    parametrization: Parametrization = "mup"
    """How first values and rates depend on width, and with "completep" on depth."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products in training; weights, moments and evaluation are float32."""
    dropout: float = 0.0
    """Probability on attention weights and on what joins the residual stream."""

    def __post_init__(self) -> None:
        allowed = {
            "learning_rate above 0": self.learning_rate > 0 and math.isfinite(self.learning_rate),
            "batch_size at least 1": self.batch_size >= 1,
            "weight_decay at least 0": self.weight_decay >= 0,
            "warmup from 0 to 1": 0 <= self.warmup <= 1,
            "final_fraction from 0 to 1": 0 <= self.final_fraction <= 1,
            "cooldown from 0 to 1": 0 <= self.cooldown <= 1,
            "warmup_floor at least 0": self.warmup_floor >= 0,
            "cooldown_floor at least 0": self.cooldown_floor >= 0,
            "beta1 from 0, below 1": 0 <= self.beta1 < 1,
            "beta2 from 0, below 1": 0 <= self.beta2 < 1,
            "grad_clip above 0": self.grad_clip > 0,
            "dropout from 0, below 1": 0 <= self.dropout < 1,
        }
        faults = [
            f"{rule}, got {getattr(self, rule.split()[0])}"
            for rule, kept in allowed.items()
            if not kept
        ]
        if faults:
            raise ValueError("a recipe needs " + "; ".join(faults))


def rate(step: int, steps: int, recipe: Recipe) -> float:
    """Multiplier of the peak rate for optimizer step `step`, counted from 0, of a run of `steps`.

    Warm-up takes w = round(warmup · steps) steps (`warmup_floor` if that is more) and gives
    (step + 1) / w: the first step already moves. After it the rate is that of the step's
    beginning, so `final_fraction` is reached at the run's end and the last step of a run to zero
    still has a positive rate.
    """
    warmup = warmup_steps(steps, recipe)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "constant":
        return 1.0
    start = cooldown_start(steps, recipe) if recipe.schedule == "wsd" else warmup
    if step < start:
        return 1.0
    left = (steps - step) / (steps - start)
    if recipe.schedule == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return recipe.final_fraction + (1 - recipe.final_fraction) * left


def warmup_steps(steps: int, recipe: Recipe) -> int:
    """Steps of a run of `steps` in which the rate rises."""
    return _share(recipe.warmup, recipe.warmup_floor, steps)


def cooldown_start(steps: int, recipe: Recipe) -> int:
    """Steps of a run of `steps` under "wsd" that are done when its rate begins to come down."""
    cooldown = _share(recipe.cooldown, recipe.cooldown_floor, steps)
    return max(warmup_steps(steps, recipe), steps - cooldown)


def forked(recipe: Recipe, steps: int, warmup: int) -> Recipe:
    """That of a run of `steps` that shares its trunk, at constant rate, with runs of other lengths:
    "wsd" with the cooldown of `recipe`, and as many steps of `warmup` as they all have."""
    return replace(recipe, schedule="wsd", warmup=warmup / steps, warmup_floor=0)


def _share(share: float, floor: int, steps: int) -> int:
    """Steps in `share` of a run of `steps`, at least `floor` but no more than there are."""
    return min(steps, max(floor, round(share * steps))) if share else 0
