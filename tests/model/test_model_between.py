"""What lies between products, compiled, against the same by torch."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import shapes
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import between
from model.backprop import Backprop
from model.between import COMPILERS, Compiled, Torch, library
from model.compiling import OrPlain, complaint_between
from model.execution import Execution
from model.gradient import gradient
from model.optim import AdamW
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training
from model.transformer import BasicsTransformerLM

SHAPE = Shape(d_model=48, num_layers=2, num_heads=3, d_ff=70, vocab_size=50, context_length=37)
compiles = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler: c++, g++ or clang++"
)


def random_weights(shape, seed):
    """Of a decoder, none of them zero or one, by name, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = BasicsTransformerLM.from_shape(shape)
    return {
        name: torch.empty(weight.shape, dtype=torch.float64).normal_(0.2, 0.3, generator=generator)
        for name, weight in model.named_parameters()
    }


def found(shape, weights, tokens, dtype, way, logit_rows=None):
    """Loss and gradient as one vector, products in `dtype`."""
    stream = torch.promote_types(dtype, torch.float32)
    products = ("attn.", "ffn.", "lm_head.")
    cast = {
        name: weight.to(dtype if any(part in name for part in products) else stream)
        for name, weight in weights.items()
    }
    gradients = {n: torch.full_like(w, math.nan) for n, w in cast.items()}
    gradients["lm_head.weight"] = gradients["lm_head.weight"].to(stream)
    backprop = Backprop(shape, len(tokens), cast, gradients, logit_rows, way)
    backprop(tokens.flip(0, 1).contiguous())  # what an earlier batch left must not matter
    return float(backprop(tokens)), torch.cat([g.double().flatten() for g in gradients.values()])


def tokens_of(shape, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    size = (batch, shape.context_length + 1)
    return torch.randint(0, shape.vocab_size, size, generator=generator)


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=40, deadline=None)
@given(
    shape=shapes.plain(70).filter(lambda shape: shape.d_model > 8),
    batch=st.integers(1, 5),
    seed=st.integers(0, 100),
    in_parts=st.booleans(),
)
def test_compiled_it_is_as_exact_as_by_torch(dtype, shape, batch, seed, in_parts):
    weights, tokens = random_weights(shape, seed), tokens_of(shape, batch, seed)
    rows = 1 + batch * shape.context_length // 3 if in_parts else None
    loss, exact = found(shape, weights, tokens, torch.float64, Torch, rows)
    wrong = {}
    for way in (Torch, Compiled):
        own, slope = found(shape, weights, tokens, dtype, way, rows)
        wrong[way] = float((slope - exact).norm() / exact.norm())
        assert own == pytest.approx(loss, rel=1e-5 if dtype == torch.float32 else 0.03)
    least = 1e-6 if dtype == torch.float32 else 0.01
    assert wrong[Compiled] < max(2 * wrong[Torch], least)


@compiles
def test_rounding_is_torch_s_for_every_kind_of_number():
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(1))
    special = torch.tensor(
        [0.0, -0.0, math.inf, -math.inf, math.nan, 1 + 2**-8, 1 + 3 * 2**-8, 3e38]
    )
    exact = torch.cat([bits.to(torch.int32).view(torch.float32), special])
    ours, wide = torch.empty(len(exact), dtype=torch.bfloat16), torch.empty_like(exact)
    operations = Compiled(torch.bfloat16)
    operations.round([exact], [ours])
    torch.testing.assert_close(ours, exact.bfloat16(), rtol=0, atol=0, equal_nan=True)
    operations.widen([ours], [wide])
    torch.testing.assert_close(wide, ours.float(), rtol=0, atol=0, equal_nan=True)


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["layers.0.attn.in_proj_weight", "layers.1.ffn.w1.bias"])
def test_what_is_no_number_stays_none(dtype, name):
    """So that a run whose weights are lost is seen to have diverged."""
    weights = random_weights(SHAPE, 1)
    weights[name].view(-1)[3] = math.nan
    loss, slope = found(SHAPE, weights, tokens_of(SHAPE, 2, 1), dtype, Compiled)
    assert math.isnan(loss)
    assert slope.isnan().any()


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_far_apart_have_chances_and_those_of_later_times_none(dtype):
    scores = 300 * torch.randn(6, 45, 45, generator=torch.Generator().manual_seed(1))
    scores = scores.to(dtype)
    mask = torch.full((45, 45), -math.inf).triu(1)
    expected = (scores.double() + mask).softmax(-1)
    chances = torch.full_like(scores, math.nan)
    Compiled(dtype).softmax(scores, mask, chances)
    torch.testing.assert_close(chances, expected.to(dtype), rtol=1e-2, atol=1e-6)
    assert not chances.triu(1).any()


def run(**execution):
    def batches(step):
        return np.random.default_rng([1, step]).integers(0, 50, (4, 38))

    training = Training(
        shape=SHAPE,
        recipe=Recipe(learning_rate=0.02, batch_size=4),
        steps=6,
        report_at=[3, 6],
        batches=batches,
        held_out=[batches(99)],
        seed=1,
        flops_per_step=SHAPE.flops_per_step(4),
        execution=Execution(**execution),
    )
    return training, [(r.loss, r.train_loss) for r in training.run()]


@compiles
def test_a_compiled_run_is_the_same_run_but_for_rounding():
    training, losses = run(compiled=True)
    plain, expected = run()
    assert losses == [pytest.approx(pair, rel=1e-5) for pair in expected]
    assert losses != expected
    assert training.preparing_seconds > 0 == plain.preparing_seconds


@pytest.mark.parametrize(
    "compilers, told",
    [
        (("no-such-compiler",), "no C.. compiler on the path: no-such-compiler"),
        (("false",), "exit 1"),
    ],
)
def test_without_a_compiler_a_run_warns_once_and_is_the_plain_one(monkeypatch, compilers, told):
    monkeypatch.setattr(between, "COMPILERS", compilers)
    library.cache_clear()
    with pytest.warns(RuntimeWarning, match=f"goes on without it .*{told}") as warned:
        found = run(compiled=True)[1]
    assert len(warned) == 1
    assert found == run()[1]
    assert compilers[0] in complaint_between("float32")
    library.cache_clear()


@compiles
def test_a_working_compiler_gives_no_cause_to_complain():
    assert not complaint_between("float32")


@compiles
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_gradient_is_computed_by_it(dtype, monkeypatch):
    shape = dataclasses.replace(SHAPE, d_ff=64)
    model = BasicsTransformerLM.from_shape(shape)
    recipe = Recipe(learning_rate=0.02, batch_size=4, dtype=dtype)
    monkeypatch.setattr("model.gradient.onednn_keeps_float32", lambda: False)
    call = gradient(model, AdamW(model, recipe, shape), recipe, Execution(compiled=True))
    assert isinstance(call, OrPlain)
    backprop = getattr(call.gradient, "backprop", call.gradient)
    assert type(backprop.between) is Compiled
    assert backprop.between.dtype == getattr(torch, dtype)
