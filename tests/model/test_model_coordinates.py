"""Coordinate check: what a few steps change is of one size at every width, and with "completep" at
every depth."""

import numpy as np
import pytest
import torch

from model.parametrization import BASE_DEPTH
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

WIDTHS = (16, 32, 64, 128, 256)
PLACES = ("layers.0", "layers.1.attn", "layers.1", "")  # "" is the whole model: logits
STEPS = 10


def batches(step):
    rng = np.random.default_rng([1, step])
    return np.cumsum(rng.integers(0, 3, (8, 33)), axis=1) % 64


def outputs(model, places):
    """What the modules at `places` give on one fixed batch."""
    seen = {}
    hooks = [
        model.get_submodule(place).register_forward_hook(
            lambda module, inputs, output, place=place: seen.__setitem__(place, output)
        )
        for place in places
    ]
    with torch.no_grad():
        model(torch.from_numpy(batches(99)[:, :-1]))
    for hook in hooks:
        hook.remove()
    return seen


def changes(width, num_layers=2, places=PLACES, **choice):
    """Root mean square change of each output after the run."""
    run = Training(
        shape=Shape(
            d_model=width,
            num_layers=num_layers,
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
    before = outputs(run.model, places)
    list(run.run())
    after = outputs(run.model, places)
    return {p: (after[p] - before[p]).square().mean().sqrt().item() for p in places}


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


@pytest.mark.parametrize(
    "parametrization, moves", [("completep", False), ("mup", True)], ids=["completep", "mup"]
)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_change_with_depth(parametrization, optimizer, moves):
    by_depth = [
        changes(
            32, depth, (f"layers.{depth - 1}",), parametrization=parametrization,
            optimizer=optimizer,
        )[f"layers.{depth - 1}"]
        for depth in (2, 4, 8, 16)
    ]  # fmt: skip
    spread = max(by_depth) / min(by_depth)
    assert (spread > 2) if moves else (spread < 1.5), by_depth


def test_at_the_base_depth_completep_is_mup():
    one, other = (changes(32, BASE_DEPTH, parametrization=p) for p in ("mup", "completep"))
    assert one == other
