"""Several trainings as one batched model: each is what it is alone, but for rounding."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model.stack as stacks
from model.backprop import Backprop
from model.execution import Execution
from model.gradient import gradient
from model.optim import AdamW
from model.recipe import Recipe
from model.shape import Shape
from model.stack import Stack
from model.stacked import StackedBackprop
from model.stacked_autograd import stacked_gradient
from model.train import CPU, Training
from model.transformer import BasicsTransformerLM

SHAPE = Shape(d_model=16, num_layers=2, num_heads=2, d_ff=64, vocab_size=40, context_length=16)
RECIPE = Recipe(learning_rate=0.02, batch_size=4)
MODERN = {"ffn": "swiglu", "norm": "rmsnorm", "positions": "rotary"}
ALONE = {
    "slow": {"learning_rate": 0.002},
    "fast": {"learning_rate": 0.05, "schedule": "cosine"},
    "wsd": {"schedule": "wsd", "cooldown_floor": 5, "weight_decay": 0.1},
    "muon": {"optimizer": "muon"},
}


def training(seed=1, steps=60, shape=SHAPE, execution=CPU, **changed):
    def batches(step):
        rng = np.random.default_rng([seed, step])
        return np.cumsum(rng.integers(0, 3, (4, shape.context_length + 1)), axis=1) % 40

    return Training(
        shape=shape,
        recipe=dataclasses.replace(RECIPE, **changed),
        steps=steps,
        report_at=[*range(15, steps, 15), steps],
        batches=batches,
        held_out=[batches(10_000)],
        seed=seed,
        flops_per_step=shape.flops_per_step(4),
        execution=execution,
    )


def reports(stack, drop=lambda place, progress: False):
    """What each member reported, by its place."""
    found = {}
    for some in stack.run():
        for place, progress in some.items():
            found.setdefault(place, []).append(progress)
            if place in stack.members and drop(place, progress):
                stack.drop(place)
    return found


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.step, one.tokens, one.flops, one.final) == (
            other.step, other.tokens, other.flops, other.final
        )  # fmt: skip
        assert one.learning_rate == other.learning_rate
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)


@settings(max_examples=25)
@given(
    members=st.integers(1, 4),
    batch=st.integers(1, 3),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    size=st.sampled_from([4, 8]),
    context=st.integers(1, 9),
    vocab=st.integers(2, 30),
)
def test_gradients_are_those_of_each_alone(members, batch, layers, heads, size, context, vocab):
    shape = Shape(
        d_model=heads * size, num_layers=layers, num_heads=heads, d_ff=24, vocab_size=vocab,
        context_length=context,
    )  # fmt: skip
    model = BasicsTransformerLM.from_shape(shape)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(members, *w.shape, generator=generator)
        for name, w in model.named_parameters()
    }
    gradients = {name: torch.full_like(w, math.nan) for name, w in weights.items()}
    size = (members, batch, context + 1)
    tokens = torch.randint(0, vocab, size, generator=generator)
    losses = StackedBackprop(shape, batch, weights, gradients)(tokens)
    for k in range(members):
        own = {name: torch.empty_like(w[k]) for name, w in weights.items()}
        alone = Backprop(shape, batch, {name: w[k] for name, w in weights.items()}, own)
        torch.testing.assert_close(losses[k], alone(tokens[k]), rtol=1e-4, atol=1e-5)
        for name, expected in own.items():
            scale = expected.abs().max().item()
            torch.testing.assert_close(
                gradients[name][k], expected, rtol=1e-3, atol=1e-4 * scale + 1e-6
            )


@pytest.mark.parametrize("rows", [None, 20])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", [{}, MODERN, {"tied_head": True}], ids=str)
def test_by_autograd_gradients_are_those_of_each_alone(variant, dtype, rows):
    shape = dataclasses.replace(SHAPE, **variant)
    recipe = dataclasses.replace(RECIPE, dtype=dtype)
    way = Execution(attention="explicit", logit_rows=rows, recompute=True)  # so not written out
    torch.manual_seed(1)
    models = [BasicsTransformerLM.from_shape(shape) for _ in range(3)]
    tokens = torch.randint(0, 40, (3, 4, 17))
    alone = [AdamW(model, recipe, shape) for model in models]
    expected = [
        gradient(model, optimizer, recipe, way)(some).item()
        for model, optimizer, some in zip(models, alone, tokens, strict=True)
    ]
    own = [[weight.detach() for weight in optimizer.parameters] for optimizer in alone]
    stacks_of = [torch.stack(some) for some in zip(*own, strict=True)]
    weights = dict(zip(alone[0].names, stacks_of, strict=True))
    gradients = {name: torch.full_like(w, math.nan) for name, w in weights.items()}
    kind, tolerance = getattr(torch, dtype), 1e-5 if dtype == "float32" else 0.02
    stacked = stacked_gradient(models[0], weights, gradients, kind, way)
    models[0].recompute = False
    for _ in range(2):  # nothing is left of the call before
        assert stacked(tokens).tolist() == pytest.approx(expected, rel=tolerance)
    for k, optimizer in enumerate(alone):
        for name, found in zip(optimizer.names, optimizer.gradients, strict=True):
            # By norm: bfloat16 rounds each number in a sum, whatever is left of the sum.
            assert (gradients[name][k] - found).norm() <= tolerance * found.norm()


def test_each_member_is_what_it_is_alone_by_autograd(monkeypatch):
    """As a GPU computes it, here on the CPU."""
    way = Execution(attention="explicit")
    monkeypatch.setattr(stacks, "_takes", lambda member: True)
    monkeypatch.setattr(stacks, "derived", lambda model, device: False)
    members = [training(learning_rate=rate, execution=way) for rate in (0.002, 0.02, 0.05)]
    stack = Stack(members)
    found = reports(stack, drop=lambda place, progress: place == 0 and progress.step == 30)
    assert [progress.step for progress in found[0]] == [15, 30]
    for place, rate in ((1, 0.02), (2, 0.05)):
        same(found[place], list(training(learning_rate=rate).run()))


def test_each_member_is_what_it_is_alone():
    """Rates, schedules, optimizers, seeds and lengths of their own."""
    chosen = [{**kept, "seed": k, "steps": 45 + 15 * k} for k, kept in enumerate(ALONE.values())]
    found = reports(Stack([training(**kept) for kept in chosen]))
    assert sorted(found) == [0, 1, 2, 3]
    for place, kept in enumerate(chosen):
        same(found[place], list(training(**kept).run()))


def test_a_member_that_is_dropped_leaves_the_others_as_they_were():
    stack = Stack([training(learning_rate=rate) for rate in (0.001, 0.02, 0.05)])
    found = reports(stack, drop=lambda place, progress: place == 0 and progress.step == 30)
    assert [progress.step for progress in found[0]] == [15, 30]
    for place, rate in ((1, 0.02), (2, 0.05)):
        same(found[place], list(training(learning_rate=rate).run()))


def test_one_that_diverges_leaves_by_itself():
    members = [training(learning_rate=rate) for rate in (1e30, 0.02)]
    found = reports(Stack(members))
    assert found[0][-1].diverged and found[0][-1].final
    same(found[1], list(training(learning_rate=0.02).run()))


def test_who_leaves_keeps_no_other_s_memory_and_can_go_on_alone():
    members = [training(learning_rate=rate) for rate in (0.01, 0.02)]
    stack = Stack(members)
    for found in stack.run():
        if found[0].step == 30:
            break
    stack.drop(0)
    (left, stayed) = (member.optimizer for member in members)
    size = left.weights.nbytes
    assert {b.untyped_storage().nbytes() for b in (left.weights, left.moment2)} == {size}
    assert stayed.weights.untyped_storage().nbytes() == 2 * size
    same(list(members[0].run()), list(training(learning_rate=0.01).run())[2:])


def test_a_state_goes_on_alone_and_in_another_stack():
    members = [training(learning_rate=rate) for rate in (0.01, 0.02)]
    for _, _found in zip(range(2), Stack(members).run(), strict=False):
        states = [member.state_dict() for member in members]
    assert [state["step"] for state in states] == [30, 30]
    again = [training(learning_rate=rate) for rate in (0.01, 0.02)]
    for member, state in zip(again, states, strict=True):
        member.load_state_dict(state)
    expected = list(training(learning_rate=0.01).run())[2:]
    same(reports(Stack(again))[0], expected)
    alone = training(learning_rate=0.01)
    alone.load_state_dict(states[0])
    same(list(alone.run()), expected)


def test_seconds_are_shared_and_weights_are_each_their_own():
    members = [training(learning_rate=rate) for rate in (0.01, 0.02)]
    found = reports(Stack(members))
    assert found[0][-1].seconds == found[1][-1].seconds > 0
    one, other = (member.model.lm_head.weight for member in members)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "other",
    [
        {"shape": dataclasses.replace(SHAPE, d_ff=32)},
        {"shape": dataclasses.replace(SHAPE, ffn="swiglu")},
        {"dropout": 0.1},
        {"dtype": "bfloat16"},
        {"execution": Execution(micro_batch_size=2)},
    ],
    ids=str,
)
def test_what_cannot_be_stacked_is_refused(other):
    with pytest.raises(ValueError, match="members must be decoders of one shape"):
        Stack([training(), training(**other)])
