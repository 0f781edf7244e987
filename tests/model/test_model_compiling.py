"""When compiling and capturing pay; each shape compiled once, outside the measured seconds."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import model.compiling
from model import payoff
from model.compiling import Captured, OrPlain, complaint
from model.execution import Execution
from model.gradient import Autograd, HeadApart, gradient
from model.optim import AdamW
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training
from model.transformer import BasicsTransformerLM

SHAPE = Shape(
    d_model=16, num_layers=1, num_heads=2, d_ff=32, vocab_size=40, context_length=8, ffn="swiglu"
)  # not plain: a CPU has no gradient written out for it
RECIPE = Recipe(learning_rate=0.02, batch_size=4)
H100 = payoff.gpu(989e12)


def gpt(num_layers, d_model):
    return Shape(
        d_model=d_model,
        num_layers=num_layers,
        num_heads=d_model // 64,
        d_ff=4 * d_model,
        vocab_size=50304,
        context_length=1024,
    )


def pays(shape, batch_size, budget, device):
    return payoff.compiling_pays(shape, batch_size, 1, shape.steps(budget, batch_size), device)


def test_compiling_pays_for_long_runs_alone():
    """On a CPU it is off below some 1e13 FLOP, as measured; on a GPU below two minutes or so."""
    small = dataclasses.replace(SHAPE, d_model=128, vocab_size=256, context_length=64, d_ff=512)
    assert not pays(small, 8, 1e13, payoff.cpu(1))
    assert pays(small, 8, 1e14, payoff.cpu(1))
    assert not pays(gpt(12, 768), 32, 1e16, H100)
    assert pays(gpt(12, 768), 32, 1e18, H100)


@given(
    steps=st.integers(1, 10**7), more=st.integers(1, 10**7), layers=st.integers(1, 48),
    batch=st.integers(1, 64),
)  # fmt: skip
def test_what_pays_once_pays_for_longer_runs(steps, more, layers, batch):
    shape = dataclasses.replace(gpt(12, 768), num_layers=layers)
    once, longer = (payoff.compiling_pays(shape, batch, 1, n, H100) for n in (steps, steps + more))
    assert once <= longer
    saved = steps * payoff.step_seconds(shape, batch, 1, H100) * (1 - 1 / H100.compile_gain)
    assert once == (saved > H100.compile_seconds)


def test_capturing_pays_for_small_shapes_alone():
    assert payoff.capturing_pays(dataclasses.replace(gpt(2, 128), context_length=64), 4, 1, H100)
    assert not payoff.capturing_pays(gpt(24, 2048), 8, 1, H100)


@pytest.fixture
def compiled(monkeypatch):
    """A backend that counts what it is given, and computes it as it is; caches are empty."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        time.sleep(0.05)
        return graph.forward

    monkeypatch.setattr(model.compiling, "BACKEND", backend)
    for cached in ("trunk", "whole", "part"):
        getattr(model.compiling, f"compiled_{cached}").cache_clear()
    yield seen
    for cached in ("trunk", "whole", "part"):
        getattr(model.compiling, f"compiled_{cached}").cache_clear()


def way(shape, recipe=RECIPE, **execution):
    torch.manual_seed(1)
    decoder = BasicsTransformerLM.from_shape(shape)
    optimizer = AdamW(decoder, recipe, shape)
    return gradient(decoder, optimizer, recipe, Execution(compiled=True, **execution)), optimizer


def tokens(shape, batch=4):
    size = (batch, shape.context_length + 1)
    return torch.randint(0, shape.vocab_size, size, generator=torch.Generator().manual_seed(1))


def test_a_shape_is_compiled_once_however_many_models_and_shapes_there_are(compiled):
    shapes = [dataclasses.replace(SHAPE, d_ff=8 * n) for n in (1, 2)]
    settings = torch._dynamo.config
    limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    with settings.patch({limit: 1}):  # 8 by default: the same, sooner; torch 2.6 has the older name
        for _ in range(2):
            for shape in shapes:
                call, _ = way(shape)
                assert isinstance(call, OrPlain)
                assert isinstance(call.gradient, HeadApart)
                call(tokens(shape))
                call(tokens(shape))
    assert len(compiled) == 2 * len(shapes)  # the trunk and the loss


def test_a_module_of_ones_own_is_compiled_whole(compiled, monkeypatch):
    monkeypatch.setattr(model.gradient, "BasicsTransformerLM", type("Ours", (), {}))
    for _ in range(2):
        call, _ = way(dataclasses.replace(SHAPE, ffn="swiglu"))
        assert type(call.gradient) is Autograd
        call(tokens(SHAPE))
    assert len(compiled) == 1


def batches(step):
    return np.random.default_rng([1, step]).integers(0, 40, (4, 9))


def run(dropout=0.0, **execution):
    training = Training(
        shape=SHAPE,
        recipe=dataclasses.replace(RECIPE, dropout=dropout),
        steps=6,
        report_at=[3, 6],
        batches=batches,
        held_out=[batches(99)],
        seed=1,
        flops_per_step=SHAPE.flops_per_step(4),
        execution=Execution(**execution),
    )
    return training, list(training.run())


def test_compiling_is_in_no_progress_seconds(compiled):
    training, reports = run(compiled=True)
    assert training.preparing_seconds > 0.1  # two graphs
    assert 0 < reports[-1].seconds < training.preparing_seconds
    assert run()[0].preparing_seconds == 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_compiled_run_is_the_same_run(compiled, dropout):
    found, expected = (run(dropout, compiled=way, logit_rows=32)[1] for way in (True, False))
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-5)
    assert [r.train_loss for r in found] == pytest.approx([r.train_loss for r in expected])


def broken(graph, inputs):
    raise FileNotFoundError("Python.h")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_where_compiling_fails_the_run_is_the_plain_one(compiled, monkeypatch, dropout):
    plain = run(dropout)[1]
    monkeypatch.setattr(model.compiling, "BACKEND", broken)
    with pytest.warns(RuntimeWarning, match=r"goes on without it \(.*Python\.h") as told:
        training, found = run(dropout, compiled=True)
    assert len(told) == 1
    assert [(r.loss, r.train_loss) for r in found] == [(r.loss, r.train_loss) for r in plain]
    assert training.preparing_seconds > 0
    assert "Python.h" in complaint("cpu")


def test_a_working_compiler_gives_no_cause_to_complain(compiled):
    assert not complaint("cpu")
    assert len(compiled) == 1


def test_a_fault_that_is_not_the_compiler_s_is_raised():
    def gradient(tokens):
        raise RuntimeError("shapes differ")

    call = OrPlain(gradient, lambda: gradient)
    with pytest.warns(RuntimeWarning), pytest.raises(RuntimeError, match="shapes differ"):
        call(tokens(SHAPE))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ZeroDivisionError])
def test_memory_that_runs_out_is_no_fault_of_the_compiler(error):
    def gradient(tokens):
        raise error

    with pytest.raises(error):
        OrPlain(gradient, pytest.fail)(tokens(SHAPE))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler warns itself
def test_torch_s_own_compiler_without_a_c_compiler_fails_no_training():
    with torch._inductor.config.patch({"cpp.cxx": ("/bin/false",), "compile_threads": 1}):
        assert complaint("cpu")
        with pytest.warns(RuntimeWarning, match="goes on without"):
            found = run(compiled=True)[1]
    assert [r.loss for r in found] == [r.loss for r in run()[1]]


def test_a_cpu_captures_nothing(compiled):
    assert not isinstance(way(SHAPE, captured=True)[0].gradient, Captured)
    assert [r.loss for r in run(captured=True)[1]] == [r.loss for r in run()[1]]
