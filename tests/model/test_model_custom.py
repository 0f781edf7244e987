"""Anybody's module as a model: found, counted against arithmetic of the test's own, checked."""

import dataclasses
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import pad

from model import custom
from model.custom import ModelError
from model.execution import Execution
from model.memory import training_bytes
from model.parametrization import groups
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training
from model.transformer import BasicsTransformerLM

HERE = "test_model_custom"
SHAPE = Shape(d_model=16, num_layers=2, num_heads=2, d_ff=40, vocab_size=50, context_length=12)
KERNEL = 3
decoder = BasicsTransformerLM.from_shape


class Convolutions(nn.Module):
    """No attention, no positions: causal convolutions and a head with a bias."""

    def __init__(self, shape):
        super().__init__()
        d = shape.d_model
        self.table = nn.Embedding(shape.vocab_size, d)
        self.layers = nn.ModuleList(nn.Conv1d(d, d, KERNEL) for _ in range(shape.num_layers))
        self.output = nn.Linear(d, shape.vocab_size)

    def forward(self, tokens):
        x = self.table(tokens).transpose(1, 2)
        for layer in self.layers:
            x = x + layer(pad(x, (KERNEL - 1, 0))).relu()
        return self.output(x.transpose(1, 2))


convolutions = Convolutions


class Seeing(Convolutions):
    """Looks at the next token."""

    def forward(self, tokens):
        return super().forward(tokens.roll(-1, 1))


class Narrow(Convolutions):
    """Forgets one token of the vocabulary."""

    def forward(self, tokens):
        return super().forward(tokens)[..., 1:]


class Content(Convolutions):
    """Does what cannot be counted without numbers."""

    def forward(self, tokens):
        return super().forward(tokens) * tokens.float().max().item()


def no_module(shape):
    return "a decoder"


def broken(shape):
    raise RuntimeError("no such size")


def frozen(shape):
    return Convolutions(shape).requires_grad_(False)


shapes = st.builds(
    lambda heads, size, **sizes: Shape(num_heads=heads, d_model=heads * size, **sizes),
    heads=st.integers(1, 3),
    size=st.sampled_from([2, 4, 8, 16]),
    num_layers=st.integers(1, 2),
    d_ff=st.integers(1, 100),
    vocab_size=st.integers(2, 300),
    context_length=st.integers(2, 40),
    ffn=st.sampled_from(["gelu", "swiglu"]),
    positions=st.sampled_from(["learned", "rotary"]),
    tied_head=st.booleans(),
)


@settings(max_examples=200)
@given(shape=shapes)
def test_a_module_of_ones_own_is_counted_to_the_unit(shape):
    L, d, V, T = shape.num_layers, shape.d_model, shape.vocab_size, shape.context_length
    found = custom.counted(f"{HERE}:convolutions", shape)
    assert found.flops_per_step(1) == 6 * T * (L * KERNEL * d * d + d * V)
    assert found.flops_per_step(5) == 5 * T * found.flops_per_token()
    assert found.flops_per_token() == 3 * found.flops_per_token_forward
    assert found.params_embedding == V * d
    assert found.params_head == V * d
    assert found.params_transformer == L * (KERNEL * d * d + d) + V
    assert found.params == sum(weight.numel() for weight in Convolutions(shape).parameters())
    assert found.asked == shape


@settings(max_examples=20)
@given(shape=shapes)
def test_the_shipped_decoder_goes_the_same_way(shape):
    found = custom.counted(f"{HERE}:decoder", shape)
    for name in ("params_embedding", "params_head", "params_transformer", "params"):
        assert getattr(found, name) == getattr(shape, name)
    for convention in ("exact", "6ND"):
        assert found.flops_per_step(3, convention) == shape.flops_per_step(3, convention)
        assert found.steps(1e9, 3, convention) == shape.steps(1e9, 3, convention)
    assert found.flops_per_token_forward == shape.flops_per_token_forward


def test_what_it_keeps_bounds_its_memory():
    shape = dataclasses.replace(SHAPE, context_length=32, d_model=64)
    found = custom.counted(f"{HERE}:decoder", shape)
    assert training_bytes(found, 8) > training_bytes(found, 4) > 16 * shape.params
    assert 0.5 < training_bytes(found, 8) / training_bytes(shape, 8) < 2


@pytest.mark.parametrize(
    "reference, message",
    [
        ("no_such_module:build", "cannot import `no_such_module`"),
        (f"{HERE}:bild", "has no function `bild`"),
        (f"{HERE}:SHAPE", "has no function `SHAPE`"),
        (f"{HERE}:no_module", "gave a str for 2x16, no nn.Module"),
        (f"{HERE}:broken", "building 2x16 failed: RuntimeError: no such size"),
        (f"{HERE}:frozen", "no weights to train"),
        (f"{HERE}:Narrow", r"logits .* = \(1, 12, 50\), got \(1, 12, 49\)"),
        (f"{HERE}:Content", "cannot be counted on tensors without content"),
    ],
)
def test_faults_are_named(reference, message):
    with pytest.raises(ModelError, match=f"{reference}.*{message}"):
        custom.counted(reference, SHAPE)


def test_a_model_that_sees_what_it_is_to_predict_is_refused():
    with pytest.raises(ModelError, match="depend on tokens that come after"):
        custom.build(f"{HERE}:Seeing", SHAPE, seed=1)


def test_its_first_values_are_a_function_of_the_seed():
    torch.manual_seed(5)
    one, other, third = (custom.build(f"{HERE}:convolutions", SHAPE, s) for s in (1, 1, 2))
    assert torch.equal(one.output.weight, other.output.weight)
    assert not torch.equal(one.output.weight, third.output.weight)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_other_source_is_another_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {"one_model": "", "other_model": "\n"}.items():
        (tmp_path / f"{name}.py").write_text(f"def build(shape):{text} return None")
    prints = {custom.fingerprint(f"{name}:build") for name in ("one_model", "other_model")}
    assert len(prints) == 2


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_hugging_face_configuration_is_a_model(name):
    pytest.importorskip("transformers")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    shape = dataclasses.replace(SHAPE, ffn="swiglu" if name == "llama" else "gelu")
    reference = f"model.huggingface:{name}"
    found = custom.counted(reference, shape)
    assert found.flops_per_step(1) == shape.flops_per_step(1)
    module = custom.build(reference, shape, seed=1)
    kinds = groups(module)
    assert found.params == sum(weight.numel() for weight in module.parameters())
    assert found.params_head == shape.vocab_size * shape.d_model
    assert list(kinds.values()).count("head") == 1
    tokens = torch.randint(0, 50, (4, 13), generator=torch.Generator().manual_seed(1))
    training = Training(
        shape=found, recipe=Recipe(learning_rate=0.01, batch_size=4), steps=30, report_at=[1, 30],
        batches=lambda step: tokens.numpy(), held_out=[tokens.numpy()], seed=1,
        flops_per_step=found.flops_per_step(4), model=module,
        execution=Execution(micro_batch_size=2),
    )  # fmt: skip
    first, last = training.run()
    assert last.loss < first.loss - 1
