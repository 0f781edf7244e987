"""The loop: what it reports, that it learns, resumes bit for bit, and ends when it diverges."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from model.execution import Execution
from model.progress import DIVERGED_LOSS
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

SHAPE = Shape(d_model=16, num_layers=2, num_heads=2, d_ff=64, vocab_size=11, context_length=12)
RECIPE = Recipe(learning_rate=0.02, batch_size=4)
STEPS = 40


def walk(rng, sequences):
    """Tokens that go round the vocabulary by 1 or 2, evenly: entropy ln 2 per token."""
    steps = rng.integers(1, 3, (sequences, SHAPE.context_length + 1))
    return np.cumsum(steps, axis=1) % SHAPE.vocab_size


def batches(step):
    tokens = walk(np.random.default_rng([1, step]), 4)
    tokens.flags.writeable = False  # as in a memory map
    return tokens


HELD_OUT = [walk(np.random.default_rng([2, i]), 8) for i in range(3)]


def training(recipe=RECIPE, steps=STEPS, report_at=(10, 25, STEPS), shape=SHAPE, **given):
    arguments = {
        "shape": shape,
        "recipe": recipe,
        "steps": steps,
        "report_at": report_at,
        "batches": batches,
        "held_out": HELD_OUT,
        "seed": 3,
        "flops_per_step": shape.flops_per_step(recipe.batch_size),
    }
    return Training(**arguments | given)


def told(progress):
    """All a progress says but the wall clock."""
    return dataclasses.replace(progress, seconds=0.0)


def test_progress_counts_what_was_spent():
    reports = list(training().run())
    assert [r.step for r in reports] == [10, 25, 40]
    assert [r.final for r in reports] == [False, False, True]
    for index, r in enumerate(reports, start=1):
        assert r.tokens == r.step * 4 * 12
        assert r.flops == r.step * SHAPE.flops_per_step(4)
        assert r.flops_evaluation == index * 24 * 12 * SHAPE.flops_per_token_forward
        assert not r.diverged
    assert reports[0].seconds < reports[1].seconds < reports[2].seconds
    assert reports[-1].learning_rate == pytest.approx(0.02 / 34)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns_down_to_the_entropy_and_never_below(optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    last = list(training(recipe, steps=600, report_at=[600]).run())[-1]
    assert last.loss < math.log(2) + 0.1
    assert last.loss > math.log(2) - 3 * last.loss_se


def test_loss_and_its_error_are_those_of_the_sequences():
    run = training(report_at=[STEPS])
    report = list(run.run())[-1]
    tokens = torch.from_numpy(np.concatenate(HELD_OUT))
    with torch.no_grad():
        chances = run.model(tokens[:, :-1]).log_softmax(-1)
    losses = -chances.gather(-1, tokens[:, 1:, None])[..., 0].mean(dim=1)
    assert report.loss == pytest.approx(losses.mean().item(), rel=1e-6)
    assert report.loss_se == pytest.approx(losses.std().item() / math.sqrt(24), rel=1e-5)


def test_reports_do_not_disturb_the_run():
    often = list(training(report_at=range(1, STEPS + 1)).run())
    once = list(training(report_at=[STEPS]).run())
    assert often[-1].loss == once[-1].loss
    assert np.mean([r.train_loss for r in often]) == pytest.approx(once[-1].train_loss)


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        dataclasses.replace(RECIPE, dropout=0.2),
        dataclasses.replace(RECIPE, schedule="cosine", final_fraction=0.1, weight_decay=0.1),
        dataclasses.replace(RECIPE, schedule="wsd"),
        dataclasses.replace(RECIPE, schedule="constant", parametrization="standard"),
        dataclasses.replace(RECIPE, dtype="bfloat16"),
        dataclasses.replace(RECIPE, optimizer="muon"),
    ],
    ids=lambda r: f"{r.schedule}-{r.dropout}-{r.dtype}-{r.optimizer}",
)
def test_a_cut_and_resumed_run_is_the_uncut_one_bit_for_bit(recipe, tmp_path):
    uncut = training(recipe)
    whole = list(uncut.run())
    for cut in (1, 2):
        first = training(recipe)
        reports = first.run()
        before = [next(reports) for _ in range(cut)]
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second = training(recipe)
        second.load_state_dict(torch.load(tmp_path / "state.pt"))
        torch.rand(7)  # whatever the process did in between
        after = list(second.run())
        assert [told(r) for r in before + after] == [told(r) for r in whole]
        for a, b in zip(uncut.model.parameters(), second.model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_batch_in_parts_is_the_same_run_at_the_same_cost():
    whole, parts = (
        list(training(execution=Execution(micro_batch_size=size)).run()) for size in (None, 1)
    )
    assert [r.loss for r in parts] == pytest.approx([r.loss for r in whole], rel=1e-4)
    assert [r.train_loss for r in parts] == pytest.approx([r.train_loss for r in whole], rel=1e-4)
    assert [(r.flops, r.tokens) for r in parts] == [(r.flops, r.tokens) for r in whole]


def test_a_state_is_not_moved_by_further_training():
    run = training()
    reports = run.run()
    next(reports)
    state = run.state_dict()
    before = {name: tensor.clone() for name, tensor in state["model"].items()}
    list(reports)
    assert all(torch.equal(before[name], tensor) for name, tensor in state["model"].items())


def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_one_alone():
    recipe = dataclasses.replace(RECIPE, dropout=0.1)
    torch.manual_seed(1)
    first = list(training(recipe).run())
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    assert [told(r) for r in training(recipe).run()] == [told(r) for r in first]
    assert next(training(recipe, seed=4).run()).loss != first[0].loss


def test_a_diverged_run_ends_with_a_finite_loss():
    wild = dataclasses.replace(RECIPE, learning_rate=1e30, parametrization="standard", warmup=0)
    run = training(wild, steps=5000, report_at=[1000, 5000])
    reports = list(run.run())
    assert len(reports) == 1
    assert reports[0].final
    assert reports[0].diverged
    assert reports[0].loss == reports[0].train_loss == DIVERGED_LOSS
    assert reports[0].step < 1000
    assert list(run.run()) == []


def test_any_module_from_tokens_to_logits_trains():
    class Bigram(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(SHAPE.vocab_size, SHAPE.vocab_size)
            self.unused = nn.Parameter(torch.ones(3))

        def forward(self, tokens):
            return self.table(tokens)

    torch.manual_seed(1)
    recipe = dataclasses.replace(RECIPE, learning_rate=0.3, grad_clip=math.inf)
    model = Bigram()
    last = list(training(recipe, steps=300, report_at=[300], model=model).run())[-1]
    assert last.loss < math.log(2) + 0.1
    assert torch.equal(model.unused, torch.ones(3))


@pytest.mark.parametrize("report_at", [[], [10], [20, 10, 40], [10, 10, 40], [0, 40], [10, 50]])
def test_reports_must_rise_to_the_end_of_the_run(report_at):
    with pytest.raises(ValueError, match="report_at must"):
        training(report_at=report_at)


def test_a_standard_error_needs_two_sequences():
    with pytest.raises(ValueError, match="two documents or more"):
        training(held_out=[HELD_OUT[0][:1]])


def test_a_batch_of_another_shape_is_named():
    run = training(batches=lambda step: batches(step)[:, :-1])
    with pytest.raises(ValueError, match=r"batches\(0\).*= \(4, 13\), got \(4, 12\)"):
        next(run.run())


def test_numbers_too_small_to_be_normal_are_zero_in_its_steps_alone():
    tiny, seen = torch.tensor([1e-40]), []

    def batches(step):
        seen.append(float(tiny * 1.0))
        return np.zeros((RECIPE.batch_size, SHAPE.context_length + 1), np.int64)

    reports = training(batches=batches).run()
    next(reports)
    assert set(seen[1:]) == {0.0}  # the first batch is looked at before it trains
    assert float(tiny * 1.0) > 0
