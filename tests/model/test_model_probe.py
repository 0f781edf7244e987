"""What a sweep computes with is what was fastest, where that costs no loss and no small model."""

import dataclasses

import pytest
import torch

import model.probe
from model.probe import choose
from model.shape import Shape

SMALL = Shape(d_model=16, num_layers=1, num_heads=1, d_ff=64, vocab_size=64, context_length=16)
LARGE = dataclasses.replace(SMALL, d_model=32, d_ff=128)


def same(dtype, seed):
    return 1.0


@pytest.fixture
def timed(monkeypatch):
    """A function that pretends the seconds of each way on each width, and bfloat16 units."""

    def pretend(seconds, units=True):
        def time(build, shape, batch_size, device, memory, way, each):
            found = seconds(shape.d_model, *way)
            asked.append((shape.d_model, *way))
            return found

        asked = []
        monkeypatch.setattr(model.probe, "onednn_keeps_float32", lambda: not units)
        monkeypatch.setattr(model.probe, "_time", time)
        return asked

    return pretend


@pytest.mark.parametrize(
    "small, large, chosen",
    [
        (0.9, 0.5, "bfloat16"),
        (0.9, 0.95, "float32"),
        (1.1, 0.5, "float32"),
        (1.0, 0.89, "bfloat16"),
    ],
)
def test_bfloat16_must_gain_a_tenth_and_slow_no_model_down(timed, small, large, chosen):
    ratio = {16: small, 32: large}
    timed(lambda width, dtype, *_: ratio[width] if dtype == "bfloat16" else 1.0)
    assert choose([SMALL, LARGE], 4, loss=same).dtype == chosen


@pytest.mark.parametrize(
    "cost, chosen", [(0.004, "bfloat16"), (-0.1, "bfloat16"), (0.006, "float32")]
)
def test_bfloat16_must_keep_the_loss_over_three_seeds(timed, cost, chosen):
    timed(lambda width, dtype, *_: 0.5 if dtype == "bfloat16" else 1.0)
    seeds = []

    def loss(dtype, seed):
        seeds.append((dtype, seed))
        return 2.0 + seed + (cost if dtype == "bfloat16" else 0)

    found = choose([SMALL, LARGE], 4, loss=loss)
    assert found.dtype == chosen
    assert set(seeds) == {(d, s) for d in ("float32", "bfloat16") for s in (0, 1, 2)}
    assert "2.00 times as fast" in found.why
    assert ("nat/token" in found.why) == (chosen == "float32")


def test_a_dtype_that_was_asked_for_stays(timed):
    asked = timed(lambda width, *_: 1.0)
    assert choose([SMALL, LARGE], 4, dtype="bfloat16", loss=same).dtype == "bfloat16"
    assert not asked


def test_nothing_is_timed_where_there_is_nothing_to_choose(timed):
    asked = timed(lambda *_: 1.0, units=False)
    found = choose([SMALL, LARGE], 4, loss=same)
    assert (found.dtype, found.threads, found.why) == ("float32", 1, "nothing to choose")
    assert not asked


@pytest.mark.parametrize("two, chosen", [(0.6, 2), (0.95, 1)])
def test_threads_must_gain_too(timed, two, chosen):
    timed(lambda width, dtype, attention, threads: two if threads == 2 else 1.0, units=False)
    assert choose([SMALL, LARGE], 4, threads=2, loss=same).threads == chosen


def test_a_variant_may_write_its_scores_down(timed):
    timed(lambda width, dtype, attention, _: 0.5 if attention == "explicit" else 1.0, units=False)
    variants = [dataclasses.replace(shape, ffn="swiglu") for shape in (SMALL, LARGE)]
    assert choose(variants, 4, loss=same).attention == "explicit"
    assert choose([SMALL, LARGE], 4, loss=same).attention == "fused"


def test_it_times_real_steps_and_leaves_threads_and_randomness_alone(monkeypatch):
    monkeypatch.setattr(model.probe, "onednn_keeps_float32", lambda: False)
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    found = choose([SMALL], 4, threads=2, loss=same, seconds=0.2)
    assert found.dtype in ("float32", "bfloat16")
    assert torch.get_num_threads() == threads
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
