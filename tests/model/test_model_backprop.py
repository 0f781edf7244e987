"""The gradient written out against autograd's of the reference decoder."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import shapes
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from model.backprop import Backprop, derived
from model.precision import onednn, onednn_keeps_float32
from model.shape import Shape
from model.transformer import BasicsTransformerLM

CPU = torch.device("cpu")
WIDE = Shape(d_model=64, num_layers=2, num_heads=4, d_ff=256, vocab_size=256, context_length=64)


def random_model(shape, seed):
    """A decoder none of whose weights is zero or one."""
    model = BasicsTransformerLM.from_shape(shape)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data.normal_(0.3, 0.5, generator=generator)
    return model


def random_tokens(shape, batch, seed):
    """(batch, context_length + 1)."""
    generator = torch.Generator().manual_seed(seed)
    each = (batch, shape.context_length + 1)
    return torch.randint(0, shape.vocab_size, each, generator=generator)


def autograds(model, tokens):
    """Loss and gradients by name, as autograd has them."""
    model.zero_grad(set_to_none=True)
    loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    return loss.detach(), {name: w.grad for name, w in model.named_parameters()}


def written_out(model, tokens):
    """Loss and gradients by name, as `Backprop` has them."""
    weights = {name: w.detach() for name, w in model.named_parameters()}
    gradients = {name: torch.full_like(w, torch.nan) for name, w in weights.items()}
    backprop = Backprop(model.shape, len(tokens), weights, gradients)
    backprop(tokens.flip(0, 1).contiguous())  # what an earlier batch left must not matter
    return backprop(tokens), gradients


def error(found, exact):
    """Norm of the error of all gradients over theirs."""
    wrong = torch.cat([(found[1][name] - g).flatten() for name, g in exact[1].items()])
    return float(wrong.norm() / size(exact[1]))


def size(gradients):
    """Norm of all of them together."""
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()


@contextmanager
def float64():
    """Precise enough that narrow layers, whose norms cancel, compare tightly too."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@settings(max_examples=60)
@given(
    # Of two numbers a LayerNorm keeps which is larger: what is left of their gradient is
    # rounding, in autograd as much as here.
    shape=shapes.plain(40).filter(lambda shape: shape.d_model > 2),
    batch=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_it_is_autograds(shape, batch, seed):
    with float64():
        model, tokens = random_model(shape, seed), random_tokens(shape, batch, seed)
        expected, found = autograds(model, tokens), written_out(model, tokens)
    torch.testing.assert_close(found[0], expected[0])
    for name in expected[1]:
        wrong = (found[1][name] - expected[1][name]).norm()
        assert wrong <= 1e-11 * size(expected[1]), name


def test_float32_loses_no_more_by_it_than_by_autograd():
    assert_as_exact_as_autograd()


def test_float32_loses_no_more_through_onednn_where_that_keeps_it():
    if not onednn_keeps_float32():
        pytest.skip("this CPU has bfloat16 units: oneDNN rounds")
    with onednn():
        assert torch.get_float32_matmul_precision() == "medium"
        assert_as_exact_as_autograd()
    assert torch.get_float32_matmul_precision() == "highest"


def assert_as_exact_as_autograd():
    """Mean error over ten models, against gradients in float64."""
    errors = []
    for seed in range(10):
        model, tokens = random_model(WIDE, seed), random_tokens(WIDE, 4, seed)
        both = written_out(model, tokens), autograds(model, tokens)
        exact = autograds(model.double(), tokens)
        errors.append([error(found, exact) for found in both])
    ours, theirs = np.mean(errors, 0)
    assert 0 < ours < 1.5 * theirs


def test_only_the_plain_decoder_on_a_cpu_is_derived():
    shape = Shape(d_model=8, num_layers=1, num_heads=2, d_ff=8, vocab_size=9, context_length=4)
    assert derived(BasicsTransformerLM.from_shape(shape), CPU)
    assert not derived(BasicsTransformerLM.from_shape(shape), torch.device("cuda"))
    assert not derived(BasicsTransformerLM.from_shape(shape, dropout=0.1), CPU)
    assert not derived(torch.nn.Embedding(3, 3), CPU)
    for variant in (
        {"ffn": "swiglu"},
        {"norm": "rmsnorm"},
        {"positions": "rotary"},
        {"qk_norm": True},
        {"tied_head": True},
    ):
        other = dataclasses.replace(shape, **variant)
        assert not derived(BasicsTransformerLM.from_shape(other), CPU)
