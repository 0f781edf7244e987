"""Parameters and FLOPs of `Shape` against the real module and torch's own counter: equal."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from model.parametrization import groups
from model.shape import Shape
from model.transformer import BasicsTransformerLM

VARIANTS = [
    {"ffn": ffn, "norm": norm, "positions": positions, "qk_norm": qk_norm, "tied_head": tied}
    for ffn, norm, positions, qk_norm, tied in itertools.product(
        ("gelu", "swiglu"), ("layernorm", "rmsnorm"), ("learned", "rotary"), (0, 1), (0, 1)
    )
]


def shapes():
    heads = st.integers(1, 3)
    return st.builds(
        lambda heads, size, layers, d_ff, vocab, context, variant: Shape(
            d_model=heads * size,
            num_layers=layers,
            num_heads=heads,
            d_ff=d_ff,
            vocab_size=vocab,
            context_length=context,
            **variant,
        ),
        heads,
        st.sampled_from([2, 4, 8, 16]),
        st.integers(1, 3),
        st.integers(1, 100),
        st.integers(2, 300),
        st.integers(1, 40),
        st.sampled_from(VARIANTS),
    )


def counted(model, batch, backward):
    """FLOPs of a pass by torch's counter; explicit scores, since fused kernels recompute them."""
    shape = model.shape
    tokens = torch.zeros(batch, shape.context_length, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(tokens)
        if backward:
            cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    return counter.get_total_flops()


@settings(max_examples=200)
@given(shape=shapes(), batch=st.integers(1, 3))
def test_flops_equal_torchs_counter(shape, batch):
    model = BasicsTransformerLM.from_shape(shape)
    tokens = batch * shape.context_length
    assert counted(model, batch, backward=False) == tokens * shape.flops_per_token_forward
    assert counted(model, batch, backward=True) == shape.flops_per_step(batch)


@settings(max_examples=200)
@given(shape=shapes())
def test_parameters_equal_the_modules(shape):
    model = BasicsTransformerLM.from_shape(shape)
    sizes = dict.fromkeys(("embedding", "vector", "hidden", "head"), 0)
    kinds = groups(model)
    for name, weight in model.named_parameters():
        sizes[kinds[name]] += weight.numel()
    assert sizes["embedding"] == shape.params_embedding
    assert sizes["head"] == shape.params_head
    assert sizes["hidden"] == shape.matrix_params
    assert sizes["hidden"] + sizes["vector"] == shape.params_transformer
    assert model.get_num_params() == shape.params_non_embedding
    assert model.get_num_params(non_embedding=False) == shape.params


def test_the_usual_formula():
    shape = Shape(
        d_model=32, num_layers=2, num_heads=2, d_ff=128, vocab_size=256, context_length=64
    )
    L, d, V, T = 2, 32, 256, 64
    assert shape.flops_per_token() == 6 * (12 * L * d**2 + d * V) + 12 * L * T * d
    assert shape.flops_per_token("6ND") == 6 * shape.params_non_embedding
    assert shape.steps(1e9, 4) * shape.flops_per_step(4) <= 1e9
    assert (shape.steps(1e9, 4) + 1) * shape.flops_per_step(4) > 1e9


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"d_model": 30}, "d_model must be a multiple of num_heads"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"d_model": 36, "positions": "rotary", "num_heads": 4}, "even head size"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    sizes = {
        "d_model": 32,
        "num_layers": 1,
        "num_heads": 4,
        "d_ff": 64,
        "vocab_size": 256,
        "context_length": 16,
    }
    with pytest.raises(ValueError, match=message):
        Shape(**sizes | wrong)
