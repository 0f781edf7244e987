"""Training on a GPU: the same losses as on a CPU, in every way offered there."""

import dataclasses

import numpy as np
import pytest
import torch

from model.execution import Execution
from model.probe import choose
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

SHAPE = Shape(d_model=64, num_layers=2, num_heads=2, d_ff=256, vocab_size=64, context_length=32)
RECIPE = Recipe(learning_rate=0.01, batch_size=8)


def batches(step):
    rng = np.random.default_rng([1, step])
    return np.cumsum(rng.integers(0, 3, (8, 33)), axis=1) % 64


def run(recipe=RECIPE, device="cuda", **execution):
    training = Training(
        shape=SHAPE,
        recipe=recipe,
        steps=60,
        report_at=[30, 60],
        batches=batches,
        held_out=[batches(99), batches(100)],
        seed=1,
        flops_per_step=SHAPE.flops_per_step(8),
        execution=Execution(device=device, **execution),
    )
    return list(training.run())


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.005), ("bfloat16", 0.02)])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_losses_are_those_of_a_cpu(dtype, tolerance, optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    expected = [report.loss for report in run(recipe, device="cpu")]
    reports = run(dataclasses.replace(recipe, dtype=dtype))
    assert [report.loss for report in reports] == pytest.approx(expected, abs=tolerance)
    assert 0 < reports[0].seconds < reports[1].seconds


@pytest.mark.slow
def test_a_compiled_model_has_the_same_losses():
    expected = [report.loss for report in run()]
    assert [report.loss for report in run(compiled=True)] == pytest.approx(expected, abs=0.005)


def test_dropout_is_a_function_of_the_seed():
    recipe = dataclasses.replace(RECIPE, dropout=0.2)
    first, again = run(recipe), run(recipe)
    assert [r.train_loss for r in first] == pytest.approx([r.train_loss for r in again], abs=1e-3)


def test_the_probe_chooses():
    found = choose([SHAPE], 8, device="cuda", loss=lambda dtype, seed: 0.0, seconds=0.5)
    assert found.dtype in ("float32", "bfloat16")
    assert "times as fast" in found.why
