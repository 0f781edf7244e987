"""The gradient written out against autograd's of the reference decoder."""

import dataclasses

import pytest
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


def both(shape, batch, seed):
    """Loss and gradients by name: autograd's, then those written out."""
    model = random_model(shape, seed)
    generator = torch.Generator().manual_seed(seed)
    size = (batch, shape.context_length + 1)
    tokens = torch.randint(0, shape.vocab_size, size, generator=generator)
    loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    weights = {name: w.detach() for name, w in model.named_parameters()}
    gradients = {name: torch.full_like(w, torch.nan) for name, w in weights.items()}
    backprop = Backprop(shape, batch, weights, gradients)
    backprop(tokens.flip(0, 1).contiguous())  # what an earlier batch left must not matter
    reference = {name: w.grad for name, w in model.named_parameters()}
    return (loss.detach(), reference), (backprop(tokens), gradients)


@pytest.fixture(scope="module")
def float64():
    """Precise enough that narrow layers, whose norms cancel, compare tightly too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_same(reference, ours, tolerance):
    torch.testing.assert_close(ours[0], reference[0])
    size = torch.cat([gradient.flatten() for gradient in reference[1].values()]).norm()
    for name, expected in reference[1].items():
        assert (ours[1][name] - expected).norm() <= tolerance * size, name


@settings(max_examples=60, deadline=None)
@given(
    shape=st.builds(
        lambda heads, head_size, **sizes: Shape(
            d_model=heads * head_size, num_heads=heads, **sizes
        ),
        heads=st.integers(1, 4),
        head_size=st.sampled_from([2, 3, 8, 16]),
        num_layers=st.integers(1, 3),
        d_ff=st.integers(1, 70),
        vocab_size=st.integers(2, 90),
        context_length=st.integers(1, 40),
        # Of two numbers a LayerNorm keeps which is larger: what is left of their gradient is
        # rounding, in autograd as much as here.
    ).filter(lambda shape: shape.d_model > 2),
    batch=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_it_is_autograds(float64, shape, batch, seed):
    assert_same(*both(shape, batch, seed), 1e-11)


def test_it_is_autograds_in_float32():
    assert_same(*both(WIDE, 4, 1), 2e-6)


def test_it_is_autograds_through_onednn_where_that_keeps_float32():
    if not onednn_keeps_float32():
        pytest.skip("this CPU has bfloat16 units: oneDNN rounds")
    with onednn():
        assert torch.get_float32_matmul_precision() == "medium"
        assert_same(*both(WIDE, 4, 1), 2e-6)
    assert torch.get_float32_matmul_precision() == "highest"


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
