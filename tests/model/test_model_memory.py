"""The memory model against what torch really keeps, and how a batch is cut to fit."""

import dataclasses
import gc
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import model.gradient
from model.execution import Execution
from model.gradient import gradient
from model.memory import (
    LOGIT,
    LOGITS,
    MASTER,
    TooLargeError,
    divisors,
    fit,
    logit_rows,
    training_bytes,
)
from model.optim import AdamW
from model.recipe import Recipe
from model.shape import Shape
from model.transformer import BasicsTransformerLM

SHAPE = Shape(d_model=64, num_layers=3, num_heads=4, d_ff=256, vocab_size=128, context_length=32)
VARIANTS = [
    {"ffn": ffn, "norm": norm, "positions": positions, "qk_norm": qk_norm}
    for ffn, norm, positions, qk_norm in itertools.product(
        ("gelu", "swiglu"), ("layernorm", "rmsnorm"), ("learned", "rotary"), (False, True)
    )
]


def kept(shape, batch, dtype="float32", recompute=False):
    """Bytes that autograd keeps for the way back, weights left out."""
    model = BasicsTransformerLM.from_shape(shape)
    model.recompute = recompute
    weights = {weight.data_ptr() for weight in model.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = tensor  # held: its place must not be used again
        return tensor

    tokens = torch.zeros(batch, shape.context_length + 1, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", getattr(torch, dtype), enabled=dtype != "float32"):
            logits = model(tokens[:, :-1])
        cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # of RMSNorm, torch's own
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_bounds_what_autograd_keeps_and_not_by_far(variant, dtype):
    shape = dataclasses.replace(SHAPE, **variant)
    for batch in (1, 8):
        bound = training_bytes(shape, batch, dtype, fused=True) - shape.params * MASTER
        assert kept(shape, batch, dtype) <= bound <= 4 * kept(shape, batch, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [8, 2])
@pytest.mark.parametrize("shape", [SHAPE, dataclasses.replace(SHAPE, d_model=128, d_ff=512)])
def test_it_bounds_the_buffers_of_the_gradient_written_out(shape, size, dtype, monkeypatch):
    monkeypatch.setattr(model.gradient, "onednn_keeps_float32", lambda: False)
    decoder = BasicsTransformerLM.from_shape(shape)
    recipe = Recipe(learning_rate=0.01, batch_size=8, dtype=dtype)
    optimizer = AdamW(decoder, recipe, shape)
    gc.collect()
    before = {id(o) for o in gc.get_objects()}
    call = gradient(decoder, optimizer, recipe, Execution(micro_batch_size=size))
    call(torch.zeros(8, 33, dtype=torch.long))
    new = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and id(o) not in before]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in new}
    outside = {b.untyped_storage().data_ptr() for b in (optimizer.weights, optimizer.gradient)}
    held = sum(size for place, size in sizes.items() if place not in outside)
    bound = training_bytes(shape, size, dtype, in_parts=size < 8) - shape.params * MASTER
    assert held <= bound <= 2 * held


def test_recomputing_keeps_a_blocks_input_alone():
    deep = dataclasses.replace(SHAPE, num_layers=12)
    bound = training_bytes(deep, 8, recompute=True) - deep.params * MASTER
    assert kept(deep, 8, recompute=True) <= bound
    assert 3 * kept(deep, 8, recompute=True) < kept(deep, 8)


@given(
    batch=st.integers(1, 600),
    memory=st.floats(1e6, 1e9),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_the_largest_divisor_that_fits(batch, memory, dtype):
    try:
        split = fit(SHAPE, batch, memory, dtype)
    except TooLargeError:
        assert training_bytes(SHAPE, 1, dtype, recompute=True) > 0.8 * memory
        return
    assert batch % split.micro_batch_size == 0
    assert split.logit_rows == logit_rows(SHAPE, split.micro_batch_size, memory)
    assert bytes_of(split, dtype, batch) <= 0.8 * memory
    for larger in (n for n in divisors(batch) if n > split.micro_batch_size):
        rows = logit_rows(SHAPE, larger, memory)
        unfit = dataclasses.replace(split, micro_batch_size=larger, logit_rows=rows)
        assert bytes_of(unfit, dtype, batch) > 0.8 * memory
    if split.recompute:
        assert training_bytes(SHAPE, 1, dtype, in_parts=batch > 1) > 0.8 * memory


def bytes_of(split, dtype, batch):
    parts = {"recompute": split.recompute, "logit_rows": split.logit_rows}
    cut = split.micro_batch_size < batch
    return training_bytes(SHAPE, split.micro_batch_size, dtype, in_parts=cut, **parts)


@given(
    vocab=st.integers(2, 300_000),
    context=st.integers(1, 4096),
    batch=st.integers(1, 64),
    memory=st.floats(1e7, 1e12),
)
def test_logits_at_once_are_few_and_no_fewer_than_need_be(vocab, context, batch, memory):
    shape = dataclasses.replace(SHAPE, vocab_size=vocab, context_length=context)
    rows = logit_rows(shape, batch, memory)
    allowed = max(256, min(LOGITS, memory / 16) / (LOGIT * vocab))
    if rows is None:
        assert batch * context <= allowed
    else:
        assert allowed / 2 <= rows <= allowed + 1
        assert training_bytes(shape, batch) > training_bytes(shape, batch, logit_rows=rows) or (
            LOGIT * vocab * (batch * context - rows) < 6 * shape.params_head
        )


def test_what_never_fits_says_what_it_takes():
    with pytest.raises(TooLargeError, match=r"3x64: one sequence takes .* GiB, .* off the ladder"):
        fit(SHAPE, 8, 1e6)


def test_a_gpu_in_the_middle_takes_the_whole_batch_or_a_part():
    large = Shape(
        d_model=1024, num_layers=24, num_heads=16, d_ff=4096, vocab_size=50304, context_length=1024
    )
    assert fit(large, 8, 80e9, "bfloat16", fused=True).micro_batch_size == 8
    part = fit(large, 512, 80e9, "bfloat16", fused=True)
    assert 8 <= part.micro_batch_size <= 64
    assert 4096 <= part.logit_rows <= 8192  # four GiB of a vocabulary of 50,304
    assert not part.recompute
