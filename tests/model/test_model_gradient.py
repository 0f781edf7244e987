"""Which way a gradient is computed, and the probe that chooses the dtype."""

import dataclasses
import shutil

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import model.gradient
from model.backprop import Backprop
from model.execution import Execution
from model.gradient import Autograd, Rounded, gradient
from model.optim import AdamW
from model.recipe import Recipe
from model.shape import Shape
from model.transformer import BasicsTransformerLM

SHAPE = Shape(d_model=32, num_layers=2, num_heads=2, d_ff=128, vocab_size=64, context_length=16)
RECIPE = Recipe(learning_rate=0.02, batch_size=4)


def way(shape=SHAPE, dtype="float32", batch_size=4, **execution):
    torch.manual_seed(1)
    decoder = BasicsTransformerLM.from_shape(shape)
    recipe = dataclasses.replace(RECIPE, dtype=dtype, batch_size=batch_size)
    optimizer = AdamW(decoder, recipe, shape)
    return gradient(decoder, optimizer, recipe, Execution(**execution)), optimizer


def precision_within(call, monkeypatch):
    """The precision torch is told to multiply in while `call` runs."""
    seen = []
    original = torch.mm

    def spy(*args, **given):
        seen.append(torch.get_float32_matmul_precision())
        return original(*args, **given)

    monkeypatch.setattr(torch, "mm", spy)
    call(torch.zeros(4, 17, dtype=torch.long))
    assert torch.get_float32_matmul_precision() == "highest"
    return set(seen)


@pytest.mark.parametrize("units", [True, False], ids=["bfloat16 units", "none"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_never_rounded_unless_asked(units, width, dtype, monkeypatch):
    monkeypatch.setattr(model.gradient, "onednn_keeps_float32", lambda: not units)
    call, _ = way(dataclasses.replace(SHAPE, d_model=width), dtype)
    expected = "medium" if width >= 128 and not units else "highest"
    assert precision_within(call, monkeypatch) == {expected}
    assert isinstance(call, Rounded) == (units and dtype == "bfloat16")


@pytest.mark.parametrize(
    "execution", [{}, {"micro_batch_size": 32}, {"logit_rows": 64}], ids=["whole", "parts", "head"]
)
def test_products_in_bfloat16_leave_the_gradient_within_their_rounding(execution, monkeypatch):
    """Of 4,096 rows: what is a sum over rows must not be added up in bfloat16."""
    monkeypatch.setattr(model.gradient, "onednn_keeps_float32", lambda: False)
    often = torch.zeros(256, 17, dtype=torch.long)  # a token whose row is a sum of many
    often[:, ::5] = torch.arange(4)
    for tokens in (torch.randint(0, 64, (256, 17)), often):
        float32, bfloat16 = (
            stepped(dtype, tokens, **execution) for dtype in ("float32", "bfloat16")
        )
        assert abs(bfloat16[0] - float32[0]) < 0.01 * float32[0]
        for name, expected in float32[1].items():
            error = (bfloat16[1][name] - expected).norm() / expected.norm()
            assert 0 < error < 0.02, (name, error)


def stepped(dtype, tokens, **execution):
    """Loss and gradients by name after the weights have moved."""
    call, optimizer = way(dtype=dtype, batch_size=len(tokens), **execution)
    before = call(tokens)
    optimizer.weights += 0.1 * torch.randn(len(optimizer.weights))
    loss = call(tokens)
    assert loss != before
    assert {loss.dtype, *(g.dtype for g in optimizer.gradients)} == {torch.float32}
    return loss, dict(zip(optimizer.names, optimizer.gradients, strict=True))


class Foreign(nn.Module):
    """Somebody's own: rows looked up sparsely, a block computed twice, a weight never used."""

    def __init__(self, sparse=True):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.rows = nn.Embedding(64, 8, sparse=sparse)
        self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, 64, bias=False)
        self.unused = nn.Parameter(torch.ones(3))
        for weight in self.parameters():
            nn.init.normal_(weight, generator=generator)

    def forward(self, tokens):
        return self.head(checkpoint(self.middle, self.rows(tokens), use_reentrant=True))


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_a_module_of_ones_own_may_do_what_backward_bears(micro_batch_size):
    tokens = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(2))
    own, plain = Foreign(), Foreign(sparse=False)
    optimizer = AdamW(own, RECIPE, SHAPE)
    call = gradient(own, optimizer, RECIPE, Execution(micro_batch_size=micro_batch_size))
    logits = plain(tokens[:, :-1])
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    for _ in range(2):  # nothing is left of the call before
        assert call(tokens).item() == pytest.approx(loss.item(), rel=1e-5)
    for name, found in zip(optimizer.names, optimizer.gradients, strict=True):
        expected = plain.get_parameter(name).grad
        torch.testing.assert_close(found, torch.zeros(3) if expected is None else expected)


def test_variants_go_through_autograd():
    assert isinstance(way()[0], Backprop)
    assert isinstance(way(dataclasses.replace(SHAPE, ffn="swiglu"))[0], Autograd)


@pytest.mark.parametrize("variant", [{"ffn": "swiglu"}, {"positions": "rotary"}], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.02)])
def test_explicit_attention_has_the_same_gradient(variant, dtype, tolerance):
    shape = dataclasses.replace(SHAPE, **variant)
    tokens = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(1))
    fused, reference = way(shape, dtype)
    explicit, optimizer = way(shape, dtype, attention="explicit")
    assert explicit(tokens).item() == pytest.approx(fused(tokens).item(), rel=tolerance)
    difference = (optimizer.gradient - reference.gradient).norm()
    assert difference <= tolerance * reference.gradient.norm()


@pytest.mark.parametrize("variant", [{}, {"ffn": "swiglu"}], ids=["written out", "autograd"])
@pytest.mark.parametrize(
    "execution",
    [
        {"micro_batch_size": 2},
        {"micro_batch_size": 1},
        {"recompute": True},
        {"recompute": True, "micro_batch_size": 2},
    ],
    ids=str,
)
def test_in_parts_and_recomputed_the_gradient_is_the_same(variant, execution):
    shape = dataclasses.replace(SHAPE, **variant)
    tokens = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(1))
    whole, reference = way(shape)
    parts, optimizer = way(shape, **execution)
    for _ in range(2):  # what an earlier batch left must not matter
        torch.testing.assert_close(parts(tokens), whole(tokens))
        torch.testing.assert_close(optimizer.gradient, reference.gradient, rtol=1e-4, atol=1e-6)
    assert optimizer.gradient.norm() > 0.1


@pytest.mark.parametrize("size", [3, 8, -1])
def test_a_micro_batch_must_divide_the_batch(size):
    with pytest.raises(ValueError, match=f"must divide batch_size, got {size}, 4"):
        way(micro_batch_size=size)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler warns itself
def test_a_compiled_model_has_the_same_gradient():
    tokens = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(1))
    variant = dataclasses.replace(SHAPE, ffn="swiglu")  # whose gradient is not written out
    plain, reference = way(variant)
    call, optimizer = way(variant, compiled=True)
    with torch._inductor.config.patch(compile_threads=1):  # no pool of processes to be started
        torch.testing.assert_close(call(tokens), plain(tokens))
    torch.testing.assert_close(optimizer.gradient, reference.gradient)
