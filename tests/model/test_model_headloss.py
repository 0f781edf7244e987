"""Loss over a large vocabulary in parts: the plain one's value and gradient, never all logits."""

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.backprop import Backprop
from model.evaluation import Evaluation
from model.execution import Execution
from model.gradient import HeadApart, gradient
from model.optim import AdamW
from model.recipe import Recipe
from model.shape import Shape
from model.transformer import BasicsTransformerLM

SHAPE = Shape(d_model=32, num_layers=2, num_heads=2, d_ff=64, vocab_size=500, context_length=15)
BATCH, ROWS = 4, 60
VARIANTS = [{}, {"ffn": "swiglu"}, {"tied_head": True}]
TOKENS = torch.randint(0, 500, (BATCH, 16), generator=torch.Generator().manual_seed(1))


def decoder(shape):
    torch.manual_seed(1)
    return BasicsTransformerLM.from_shape(shape)


def in_parts(shape, rows, dtype="float32", **execution):
    model = decoder(shape)
    recipe = Recipe(learning_rate=0.1, batch_size=BATCH, dtype=dtype)
    optimizer = AdamW(model, recipe, shape)
    call = gradient(model, optimizer, recipe, Execution(logit_rows=rows, **execution))
    return call, optimizer


def plain(shape, dtype=torch.float32):
    """Loss and gradients by name, all logits at once."""
    model = decoder(shape)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = model(TOKENS[:, :-1]).float()
    loss = cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}


class Rows(TorchDispatchMode):
    """The most rows of logits that any operation gave."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size, self.most = vocab_size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.ndim]
        logits = [t for t in found if t.shape[-1] == self.vocab_size]
        head = (SHAPE.d_model, self.vocab_size)  # turned, it looks like logits
        rows = [t.numel() // t.shape[-1] for t in logits if t.shape != head]
        self.most = max([self.most, *rows])
        return out


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 30, 59, 60, 1000])
@pytest.mark.parametrize("micro", [4, 2])
def test_loss_and_gradient_are_those_of_the_plain_one(variant, rows, micro):
    shape = dataclasses.replace(SHAPE, **variant)
    call, optimizer = in_parts(shape, rows, micro_batch_size=micro)
    loss, gradients = plain(shape)
    for _ in range(2):  # what an earlier batch left must not matter
        torch.testing.assert_close(call(TOKENS), loss)
        for name, found in zip(optimizer.names, optimizer.gradients, strict=True):
            torch.testing.assert_close(found, gradients[name], rtol=1e-4, atol=1e-6)


def test_in_bfloat16_only_products_are_rounded():
    shape = dataclasses.replace(SHAPE, ffn="swiglu")
    call, optimizer = in_parts(shape, 13, "bfloat16")
    loss, gradients = plain(shape, torch.bfloat16)
    torch.testing.assert_close(call(TOKENS), loss, rtol=1e-3, atol=0)
    exact = dict(zip(optimizer.names, optimizer.gradients, strict=True))
    for name in ("lm_head.weight", "layers.0.ffn.w1.weight"):
        assert (exact[name] - gradients[name]).norm() < 0.02 * gradients[name].norm()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("rows, most", [(10, 10), (59, 59), (None, ROWS)])
def test_never_are_more_logits_held_than_asked_for(variant, rows, most):
    call, _ = in_parts(dataclasses.replace(SHAPE, **variant), rows)
    with Rows(SHAPE.vocab_size) as seen:
        call(TOKENS)
    assert seen.most == most


def test_the_way_is_the_fast_one_where_there_is_one():
    assert isinstance(in_parts(SHAPE, 7)[0], Backprop)
    assert isinstance(in_parts(dataclasses.replace(SHAPE, ffn="swiglu"), 7)[0], HeadApart)


def test_evaluation_holds_a_part_of_the_logits(monkeypatch):
    model = decoder(SHAPE)
    evaluation = Evaluation([TOKENS.numpy()], None, torch.device("cpu"))
    whole = evaluation(model)
    monkeypatch.setattr("model.evaluation.LOGITS", 7 * 500)
    with Rows(SHAPE.vocab_size) as seen:
        parts = evaluation(model)
    assert seen.most == 7
    assert parts.mean == pytest.approx(whole.mean, rel=1e-6)
