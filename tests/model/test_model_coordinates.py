"""Coordinate check: with "mup", what a few steps change is of one size at every width."""

import numpy as np
import pytest
import torch

from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

WIDTHS = (16, 32, 64, 128, 256)
PLACES = ("layers.0", "layers.1.attn", "layers.1", "")  # "" is the whole model: logits
STEPS = 10


def batches(step):
    rng = np.random.default_rng([1, step])
    return np.cumsum(rng.integers(0, 3, (8, 33)), axis=1) % 64


def outputs(model):
    """What the modules at `PLACES` give on one fixed batch."""
    seen = {}
    hooks = [
        model.get_submodule(place).register_forward_hook(
            lambda module, inputs, output, place=place: seen.__setitem__(place, output)
        )
        for place in PLACES
    ]
    with torch.no_grad():
        model(torch.from_numpy(batches(99)[:, :-1]))
    for hook in hooks:
        hook.remove()
    return seen


def changes(width, **choice):
    """Root mean square change of each output after the run."""
    run = Training(
        shape=Shape(
            d_model=width,
            num_layers=2,
            num_heads=width // 16,
            d_ff=4 * width,
            vocab_size=64,
            context_length=32,
        ),
        recipe=Recipe(
            learning_rate=0.01,
            batch_size=8,
            **choice,
            warmup=0,
            schedule="constant",
        ),
        steps=STEPS,
        report_at=[STEPS],
        batches=batches,
        held_out=[batches(99)],
        seed=1,
        flops_per_step=1,
    )
    before = outputs(run.model)
    list(run.run())
    after = outputs(run.model)
    return {p: (after[p] - before[p]).square().mean().sqrt().item() for p in PLACES}


@pytest.mark.parametrize(
    "parametrization, optimizer, moves",
    [("mup", "adamw", False), ("mup", "muon", False), ("standard", "adamw", True)],
)
def test_change_with_width(parametrization, optimizer, moves):
    by_width = [
        changes(width, parametrization=parametrization, optimizer=optimizer) for width in WIDTHS
    ]
    for place in PLACES:
        sizes = [change[place] for change in by_width]
        spread = max(sizes) / min(sizes)
        assert (spread > 5) if moves else (spread < 1.5), (place, sizes)
