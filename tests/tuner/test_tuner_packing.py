"""Trials share a GPU where memory allows and it pays, and then really run at once."""

import time

import pytest
import torch

from model.memory import USABLE, training_bytes
from model.shape import Shape
from model.speed import Speed
from model.transformer import BasicsTransformerLM
from tuner import packing, probing, slot, together
from tuner.errors import ConfigError
from tuner.slot import Slot
from tuner.together import Load

GB = 1e9


def test_so_many_may_share_as_hold_their_whole_batches_beside_a_context_each():
    assert packing.allowed(1 * GB, 80 * GB) == [1, 2, 4, 8]
    assert packing.allowed(USABLE * (40 - 0.76) * GB, 80 * GB) == [1, 2]
    assert packing.allowed(USABLE * (40 - 0.74) * GB, 80 * GB) == [1]
    assert packing.allowed(500 * GB, 80 * GB) == [1]  # cut into micro-batches it may still run
    for count in (1, 2, 4, 8):
        taken = count * (packing.share(24 * GB, count) + packing.CONTEXT * (count > 1))
        assert taken == pytest.approx(24 * GB)


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({1: [1, 9], 2: [2, 18], 4: [4, 36]}, 4),
        ({1: [1, 9], 2: [2, 9], 4: [2, 9]}, 2),  # the small model gains, and is most of the time
        ({1: [9, 1], 2: [18, 1.0], 4: [36, 1.0]}, 1),  # the slow one gains nothing
        ({1: [1, 9], 2: [1.05, 9], 4: [4, 36]}, 1),  # too little: the search ends there
        ({1: [1, 9], 2: [2, 0], 4: [4, 36]}, 1),  # the large one does not run beside itself
        ({1: [1, 9], 2: [0.7, 6], 4: [1, 1]}, 1),
    ],
)
def test_more_than_one_must_be_measured_faster(speeds, chosen):
    assert packing.best([1, 2, 4], speeds.__getitem__) == chosen


def test_nothing_is_measured_where_one_alone_fits():
    assert packing.best([1], None) == 1


def test_several_kinds_of_gpu_get_what_the_weakest_bears():
    large = Slot(
        speed=Speed(dtype="bfloat16"), memory=40 * GB, trials_per_gpu=2, peaks={"H100": 989e12}
    )
    small = Slot(speed=Speed(dtype="bfloat16"), memory=24 * GB, peaks={"L4": 121e12})
    both = slot.most_careful([large, small])
    assert (both.trials_per_gpu, both.memory, both.speed.dtype) == (1, 24 * GB, "bfloat16")
    assert both.peaks == {"H100": 989e12, "L4": 121e12}
    old = Slot(speed=Speed(dtype="float32"), memory=16 * GB, peaks={"T4": 8e12})
    assert slot.most_careful([large, old]).speed.dtype == "float32"
    assert slot.most_careful([large, old]).peaks == {"T4": 8e12}  # the others' are of bfloat16


def test_a_gpu_is_only_shared_whole(small):
    with pytest.raises(ConfigError, match=r"trials_per_gpu: 2 trials cannot share 0\.5 GPUs"):
        small(resources={"gpus_per_trial": 0.5, "trials_per_gpu": 2})


@pytest.mark.ray
def test_each_trial_asks_ray_for_its_share(local_ray, settled, tmp_path, monkeypatch):
    from tuner import driver
    from tuner import sweep as sweeps

    asked = []

    def watched(self, iteration, trials, trial, **info):
        asked.append(trial.placement_group_factory.required_resources)
        started(self, iteration, trials, trial, **info)

    started = driver._Lives.on_trial_start
    monkeypatch.setattr(driver._Lives, "on_trial_start", watched)
    sweep = settled(
        budgets=[1e13], shapes={"per_budget": 3}, search={"trials": 1},
        resources={"gpus_per_trial": 1, "trials_per_gpu": 3, "cpus_per_trial": 0.25},
    )  # fmt: skip
    sweeps.run(sweep, tmp_path / "sweep")
    assert asked == [{"CPU": 0.25, "GPU": pytest.approx(1 / 3)}] * 3


@pytest.mark.ray
def test_as_many_as_share_a_gpu_run_at_once(local_ray, small):
    """Each waits until all have come: none would return if one had to wait for another's end."""
    import ray

    from tuner import sweep as sweeps

    @ray.remote(num_cpus=0)
    class Meeting:
        def __init__(self):
            self.come = 0

        def enter(self):
            self.come += 1

        def count(self):
            return self.come

    @ray.remote
    def meet(meeting, expected):
        ray.get(meeting.enter.remote())
        while ray.get(meeting.count.remote()) < expected:
            time.sleep(0.05)
        return True

    resources = small(resources={"gpus_per_trial": 1, "cpus_per_trial": 0.25}).resources
    share = sweeps._share({"devices": 1}, resources, Slot(trials_per_gpu=3)).required_resources
    meeting = Meeting.remote()
    one = meet.options(num_cpus=share["CPU"], num_gpus=share["GPU"])
    assert ray.get([one.remote(meeting, 3) for _ in range(3)], timeout=120) == [True] * 3


@pytest.mark.slow
def test_processes_are_timed_side_by_side():
    shape = Shape(d_model=16, num_layers=1, num_heads=1, d_ff=64, vocab_size=64, context_length=16)
    load = Load(
        build=BasicsTransformerLM.from_shape, shapes=[shape], batch_size=4, device="cpu",
        speed=Speed(), memory=1e9,
    )  # fmt: skip
    (two,) = together.rates(load, 2, seconds=0.5)
    assert 1e6 < two < 1e13


def refused(shape):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def stuck(shape):
    time.sleep(3600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "patience", "said"),
    [(refused, 120.0, "RuntimeError: CUDA error: an illegal"), (stuck, 0.5, "TimeoutError")],
)
def test_what_cannot_run_side_by_side_is_not_packed(capfd, build, patience, said):
    shape = Shape(d_model=16, num_layers=1, num_heads=1, d_ff=64, vocab_size=64, context_length=16)
    load = Load(
        build=build, shapes=[shape, shape], batch_size=4, device="cpu", speed=Speed(), memory=1e9
    )
    began = time.monotonic()
    assert together.rates(load, 1, seconds=0.1, patience=patience) == [0.0, 0.0]
    assert time.monotonic() - began < 300
    assert f"1 at once on cpu failed: {said}" in capfd.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_packed_as_it_is_measured(text, tmp_path):
    from test_tuner_slot import sweep_of

    from tuner import corpora

    sweep = sweep_of(text, resources={"gpus_per_trial": 1})
    folder = corpora.of(sweep, tmp_path).folder
    found = probing.find(sweep, 256, folder)
    whole = torch.cuda.get_device_properties(0).total_memory
    assert found.trials_per_gpu in (1, 2, 4, 8)
    assert found.memory == packing.share(whole, found.trials_per_gpu)
    large = Shape(
        d_model=64, num_layers=2, num_heads=1, d_ff=256, vocab_size=256, context_length=32
    )
    assert training_bytes(large, 4, found.speed.dtype, fused=True) < USABLE * found.memory
