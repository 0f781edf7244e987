"""Training on a GPU: the same losses as on a CPU, in every way offered there."""

import dataclasses

import numpy as np
import pytest
import torch

from model.execution import Execution
from model.gradient import gradient
from model.optim import AdamW
from model.probe import choose
from model.recipe import Recipe
from model.shape import Shape
from model.stack import Stack
from model.train import Training
from model.transformer import BasicsTransformerLM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

SHAPE = Shape(d_model=64, num_layers=2, num_heads=2, d_ff=256, vocab_size=64, context_length=32)
RECIPE = Recipe(learning_rate=0.01, batch_size=8)
MODERN = {"ffn": "swiglu", "norm": "rmsnorm", "positions": "rotary"}


def batches(step):
    rng = np.random.default_rng([1, step])
    return np.cumsum(rng.integers(0, 3, (8, 33)), axis=1) % 64


def training(recipe=RECIPE, device="cuda", shape=SHAPE, **execution):
    return Training(
        shape=shape,
        recipe=recipe,
        steps=60,
        report_at=[30, 60],
        batches=batches,
        held_out=[batches(99), batches(100)],
        seed=1,
        flops_per_step=shape.flops_per_step(8),
        execution=Execution(device=device, **execution),
    )


def run(*arguments, **options):
    return list(training(*arguments, **options).run())


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.005), ("bfloat16", 0.02)])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_losses_are_those_of_a_cpu(dtype, tolerance, optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    expected = [report.loss for report in run(recipe, device="cpu")]
    reports = run(dataclasses.replace(recipe, dtype=dtype))
    assert [report.loss for report in reports] == pytest.approx(expected, abs=tolerance)
    assert 0 < reports[0].seconds < reports[1].seconds


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "execution",
    [
        {"compiled": True},
        {"captured": True},
        {"compiled": True, "captured": True},
        {"captured": True, "micro_batch_size": 2},
        {"logit_rows": 37},
        {"compiled": True, "logit_rows": 100, "recompute": True},
    ],
    ids=str,
)
def test_compiled_captured_and_in_parts_the_losses_are_the_same(execution, dtype):
    recipe = dataclasses.replace(RECIPE, dtype=dtype)
    expected = [report.loss for report in run(recipe)]
    assert [report.loss for report in run(recipe, **execution)] == pytest.approx(
        expected, abs=0.005 if dtype == "float32" else 0.02
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", [{}, MODERN, {"tied_head": True}], ids=str)
@pytest.mark.parametrize(
    "execution", [{}, {"captured": True}, {"compiled": True, "captured": True}], ids=str
)
def test_stacked_the_losses_are_those_of_each_alone(execution, variant, dtype):
    """Though one leaves half-way, and the others are captured anew."""
    shape = dataclasses.replace(SHAPE, **variant)
    rates = (0.003, 0.01, 0.02)
    recipes = [dataclasses.replace(RECIPE, dtype=dtype, learning_rate=rate) for rate in rates]
    expected = [[report.loss for report in run(recipe, shape=shape)] for recipe in recipes]
    stack = Stack([training(recipe, shape=shape, **execution) for recipe in recipes])
    found = [[], [], []]
    for reports in stack.run():
        for place, report in reports.items():
            found[place].append(report.loss)
        if 0 in stack.members:
            stack.drop(0)
    for some, alone in zip(found, [expected[0][:1], *expected[1:]], strict=True):
        assert some == pytest.approx(alone, abs=0.005 if dtype == "float32" else 0.02)


def test_dropout_is_not_captured():
    recipe = dataclasses.replace(RECIPE, dropout=0.2)
    expected = [report.loss for report in run(recipe)]
    assert [r.loss for r in run(recipe, captured=True)] == pytest.approx(expected, abs=0.005)


def test_logits_in_parts_take_less_memory():
    shape = dataclasses.replace(SHAPE, vocab_size=50_000)
    peaks = []
    for rows in (None, 32):
        model = BasicsTransformerLM.from_shape(shape).cuda()
        optimizer = AdamW(model, RECIPE, shape)
        execution = Execution(device="cuda", logit_rows=rows)
        call = gradient(model, optimizer, RECIPE, execution)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(torch.zeros(8, 33, dtype=torch.long, device="cuda"))
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del model, optimizer, call
    assert peaks[1] < 0.5 * peaks[0]


def test_dropout_is_a_function_of_the_seed():
    recipe = dataclasses.replace(RECIPE, dropout=0.2)
    first, again = run(recipe), run(recipe)
    assert [r.train_loss for r in first] == pytest.approx([r.train_loss for r in again], abs=1e-3)


def test_the_probe_chooses():
    found = choose([SHAPE], 8, device="cuda", loss=lambda dtype, seed: 0.0, seconds=0.5)
    assert found.dtype in ("float32", "bfloat16")
    assert "times as fast" in found.why
