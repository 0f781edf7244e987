"""Rates of a schedule, groups of weights, and AdamW against torch's own."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.optim import AdamW, Muon, optimizer, orthogonal
from model.parametrization import groups, initialize
from model.recipe import Recipe, rate
from model.shape import Shape
from model.transformer import BasicsTransformerLM

SHAPE = Shape(d_model=32, num_layers=2, num_heads=2, d_ff=128, vocab_size=64, context_length=16)
RECIPE = Recipe(learning_rate=0.02, batch_size=4)


def fresh(parametrization="mup", seed=1, **variant):
    shape = dataclasses.replace(SHAPE, **variant)
    model = BasicsTransformerLM.from_shape(shape)
    generator = torch.Generator().manual_seed(seed)
    initialize(model, shape.num_layers, parametrization, generator)
    return model


@given(
    steps=st.integers(1, 3000),
    schedule=st.sampled_from(["linear", "cosine", "constant", "wsd"]),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
    cooldown=st.floats(0, 1),
    floor=st.integers(0, 200),
)
def test_every_step_moves_and_none_is_above_the_peak(
    steps, schedule, warmup, final, cooldown, floor
):
    recipe = Recipe(
        learning_rate=1.0,
        batch_size=1,
        schedule=schedule,
        warmup=warmup,
        final_fraction=final,
        cooldown=cooldown,
        warmup_floor=floor,
        cooldown_floor=floor,
    )
    rates = [rate(step, steps, recipe) for step in range(steps)]
    assert all(0 < r <= 1 for r in rates)
    assert max(rates) == 1
    peak = rates.index(1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_linear_rates_by_hand():
    recipe = dataclasses.replace(RECIPE, warmup=0.2)
    rates = [rate(step, 10, recipe) for step in range(11)]
    expected = [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
    assert rates == pytest.approx(expected)


def test_cosine_and_wsd_rates_by_hand():
    cosine = dataclasses.replace(RECIPE, warmup=0, schedule="cosine", final_fraction=0.1)
    middle = 0.1 + 0.9 * 0.5
    assert [rate(s, 8, cosine) for s in (0, 4, 8)] == pytest.approx([1, middle, 0.1])
    assert rate(2, 8, cosine) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    wsd = dataclasses.replace(RECIPE, warmup=0.1, schedule="wsd", cooldown=0.4, cooldown_floor=0)
    assert [rate(s, 10, wsd) for s in (0, 5, 6, 7, 9, 10)] == pytest.approx(
        [1, 1, 1, 0.75, 0.25, 0]
    )


def test_floors_lengthen_short_runs_only():
    recipe = dataclasses.replace(
        RECIPE, schedule="wsd", warmup=0.1, warmup_floor=8, cooldown=0.2, cooldown_floor=30
    )
    short = [rate(step, 50, recipe) for step in range(50)]
    assert [short.index(1), 50 - sum(r == 1 for r in short[8:]) - 8] == [7, 29]
    long = [rate(step, 1000, recipe) for step in range(1000)]
    assert [long.index(1), long[100:].count(1)] == [99, 701]
    assert rate(0, 50, dataclasses.replace(recipe, warmup=0)) == 1


def test_a_wrong_recipe_names_every_fault():
    with pytest.raises(
        ValueError, match=r"learning_rate above 0, got -1.*warmup from 0 to 1, got 2"
    ):
        Recipe(learning_rate=-1, batch_size=4, warmup=2)


def test_weights_are_grouped_by_what_they_do():
    kinds = groups(fresh())
    assert kinds["token_embeddings.weight"] == kinds["position_embeddings.weight"] == "embedding"
    assert kinds["lm_head.weight"] == "head"
    assert kinds["layers.1.ffn.w1.bias"] == kinds["layers.0.ln1.weight"] == "vector"
    assert kinds["layers.1.attn.in_proj_weight"] == kinds["layers.0.ffn.w2.weight"] == "hidden"
    assert groups(fresh(tied_head=True))["token_embeddings.weight"] == "head"


@pytest.mark.parametrize("parametrization", ["mup", "standard"])
def test_first_values(parametrization):
    weights = fresh(parametrization, d_model=128, d_ff=512).state_dict()
    deviation = {name: w.std().item() for name, w in weights.items() if w.ndim == 2}
    depth = math.sqrt(4)
    mup = {
        "token_embeddings.weight": 0.5,
        "position_embeddings.weight": 0.1,
        "layers.0.attn.in_proj_weight": 128**-0.5,
        "layers.1.attn.out_proj.weight": 128**-0.5 / depth,
        "layers.1.ffn.w1.weight": 128**-0.5,
        "layers.1.ffn.w2.weight": 512**-0.5 / depth,
        "lm_head.weight": 0,
    }
    for name, expected in mup.items():
        gpt2 = 0.02 / (depth if name.endswith(("out_proj.weight", "w2.weight")) else 1)
        value = expected if parametrization == "mup" else gpt2
        assert deviation[name] == pytest.approx(value, rel=0.06), name
    assert (weights["layers.0.ln1.weight"] == 1).all()
    assert (weights["layers.0.ffn.w1.bias"] == 0).all()


def test_first_values_are_a_function_of_the_seed():
    first, again, other = fresh(seed=1), fresh(seed=1), fresh(seed=2)
    for a, b, c in zip(*(m.parameters() for m in (first, again, other)), strict=True):
        assert torch.equal(a, b)
        assert a.std() == 0 or a.ndim < 2 or not torch.equal(a, c)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parametrization", ["mup", "standard"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_is_torchs_adamw_after_clipping(parametrization, decay, tied):
    recipe = Recipe(
        learning_rate=0.02,
        batch_size=4,
        parametrization=parametrization,
        weight_decay=decay,
        beta1=0.8,
        beta2=0.95,
        grad_clip=0.7,
    )
    ours, theirs = (fresh(parametrization, tied_head=tied) for _ in range(2))
    optimizer = AdamW(ours, recipe, SHAPE)
    kinds = groups(theirs)
    reference = torch.optim.AdamW(
        [
            {
                "params": [w],
                "lr": 0.02 * (0.5 if parametrization == "mup" and w.ndim == 2 else 1),
                "weight_decay": decay if kinds[name] in ("hidden", "head") else 0,
            }
            for name, w in theirs.named_parameters()
        ],
        betas=(0.8, 0.95),
    )
    for name, group in zip(kinds, reference.param_groups, strict=True):
        if kinds[name] == "embedding":
            group["lr"] = 0.02
    peaks = [group["lr"] for group in reference.param_groups]
    generator = torch.Generator().manual_seed(5)
    for step in range(5):
        for weight in theirs.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator) * 10.0 ** (step - 3)
        for name, buffer in zip(optimizer.names, optimizer.gradients, strict=True):
            buffer.copy_(theirs.get_parameter(name).grad)
        optimizer.step(0.1 * (step + 1))
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
        for group, peak in zip(reference.param_groups, peaks, strict=True):
            group["lr"] = peak * 0.1 * (step + 1)
        reference.step()
        for mine, weight in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, weight, rtol=1e-5, atol=1e-7)


def test_the_recipe_names_the_optimizer():
    assert type(optimizer(fresh(), RECIPE, SHAPE)) is AdamW
    assert type(optimizer(fresh(), dataclasses.replace(RECIPE, optimizer="muon"), SHAPE)) is Muon


@pytest.mark.parametrize("rows, columns", [(16, 16), (40, 16), (16, 40)])
def test_orthogonal_keeps_the_directions_and_evens_the_sizes(rows, columns):
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(3, rows, columns, generator=generator)
    for before, after in zip(matrices, orthogonal(matrices), strict=True):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        seen = u.T @ after @ vh.T  # diagonal in the singular vectors it had
        assert seen.diagonal().min() > 0.3
        assert seen.diagonal().max() < 1.3
        assert (seen - seen.diagonal().diag()).abs().max() < 1e-3


@pytest.mark.parametrize("parametrization", ["mup", "standard"])
def test_muon_moves_matrices_alone_and_as_far_as_adamw(parametrization):
    recipe = Recipe(
        learning_rate=0.02,
        batch_size=4,
        parametrization=parametrization,
        optimizer="muon",
        grad_clip=math.inf,
    )
    shape = dataclasses.replace(SHAPE, d_model=16, num_heads=1)
    models = [fresh(parametrization, d_model=16, num_heads=1) for _ in range(3)]
    start, *moved = models
    for model, name in zip(moved, ("adamw", "muon"), strict=True):
        chosen = optimizer(model, dataclasses.replace(recipe, optimizer=name), shape)
        chosen.gradient.normal_(generator=torch.Generator().manual_seed(1))
        chosen.step(0.5)
    kinds = groups(start)
    for name, before in start.named_parameters():
        adamw, muon = (m.get_parameter(name) - before for m in moved)
        if kinds[name] == "hidden":
            # The first AdamW step is the gradient's sign: 1 / .2 of a later one's size.
            size = muon.square().mean().sqrt() / adamw.square().mean().sqrt()
            assert (0.1 if parametrization == "standard" else 0.05) < size < 0.25, name
        else:
            assert torch.equal(adamw, muon), name


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_completep_is_a_factor_before_what_a_block_adds(decay):
    """In a model that has that factor, weights without it move and shrink the same."""
    recipe = Recipe(
        learning_rate=0.02, batch_size=4, parametrization="completep", weight_decay=decay,
        grad_clip=math.inf,
    )  # fmt: skip
    depth, factor = 8, 2 / 8
    shape = dataclasses.replace(SHAPE, num_layers=depth)
    ours = fresh("completep", num_layers=depth)
    apart = {name: w.detach().clone() for name, w in ours.named_parameters()}
    joining = [n for n in apart if n.endswith(("out_proj.weight", "w2.weight", "w2.bias"))]
    assert len(joining) == 3 * depth
    optimizer = AdamW(ours, recipe, shape)
    for name in joining:
        apart[name] /= factor
    theirs = fresh(num_layers=depth)
    theirs.load_state_dict(apart)
    plain = AdamW(theirs, dataclasses.replace(recipe, parametrization="mup"), shape)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        drawn = {name: torch.randn(w.shape, generator=generator) for name, w in apart.items()}
        for name, gradient in zip(optimizer.names, optimizer.gradients, strict=True):
            gradient.copy_(drawn[name])
        for name, gradient in zip(plain.names, plain.gradients, strict=True):
            gradient.copy_(drawn[name] * (factor if name in joining else 1))
        optimizer.step(0.5)
        plain.step(0.5)
    for name, weight in ours.named_parameters():
        expected = theirs.get_parameter(name) * (factor if name in joining else 1)
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)
