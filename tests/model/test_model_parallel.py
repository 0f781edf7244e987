"""Two processes that train one model: the run of one process, and its checkpoints."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from model.execution import Execution
from model.memory import TooLargeError, fit, spread, training_bytes
from model.parallel import TorchGroup
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

SHAPE = Shape(d_model=32, num_layers=2, num_heads=2, d_ff=128, vocab_size=97, context_length=32)
RECIPE = Recipe(learning_rate=0.02, batch_size=8, weight_decay=0.1)
WAYS = {
    "one buffer": {},
    "one buffer, muon": {"optimizer": "muon"},
    "one buffer, in parts": {"micro_batch_size": 2},
    "pieces": {"sharded": True},
    "pieces, in parts, blocks twice": {"sharded": True, "micro_batch_size": 2, "recompute": True},
}


def training(group=None, *, optimizer="adamw", dropout=0.0, **execution):
    torch.set_num_threads(1)
    return Training(
        shape=SHAPE, recipe=replace(RECIPE, optimizer=optimizer, dropout=dropout), steps=40,
        report_at=[10, 20, 40], seed=3, flops_per_step=SHAPE.flops_per_step(8), group=group,
        batches=lambda step: np.random.default_rng(step).integers(97, size=(8, 33)),
        held_out=[np.random.default_rng(10**6).integers(97, size=(8, 33))],
        execution=Execution(**execution),
    )  # fmt: skip


def reports(training):
    return [replace(progress, seconds=0.0) for progress in training.run()]


def partner(rank, size, folder, ways):
    """One of two processes: train; go on from the first report's state; leave what was reported."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    found = {}
    for name, options in ways.items():
        whole, state, told = training(TorchGroup(), **options), None, []
        for progress in whole.run():
            told.append(replace(progress, seconds=0.0))
            state = state or whole.state_dict()
        again = training(TorchGroup(), **options)
        again.load_state_dict(state)
        found[name] = told, reports(again)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """What each of two partners reported, of every way."""
    folder = tmp_path_factory.mktemp("pair")
    ways = {**WAYS, "dropout": {"dropout": 0.1}}
    multiprocessing.spawn(partner, args=(2, folder, ways), nprocs=2)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_partners_give_the_run_of_one(pairs, way):
    alone = reports(training(optimizer=WAYS[way].get("optimizer", "adamw")))
    told, _ = pairs[0][way]
    for one, two in zip(alone, told, strict=True):
        assert (one.step, one.tokens, one.flops, one.final) == (
            two.step, two.tokens, two.flops, two.final,
        )  # fmt: skip
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert two.train_loss == pytest.approx(one.train_loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, "dropout"])
def test_they_go_on_from_a_checkpoint_bit_for_bit(pairs, way):
    told, again = pairs[0][way]
    assert again == told[1:]


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, "dropout"])
def test_partners_say_the_same(pairs, way):
    assert pairs[0][way] == pairs[1][way]


class Pair:
    rank, size = 0, 3


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="8 cannot be shared out among 3"):
        training(Pair())


LARGE = Shape(
    d_model=1024, num_layers=24, num_heads=16, d_ff=4096, vocab_size=32000, context_length=256
)


def test_one_device_where_it_fits():
    memory = 2 * training_bytes(LARGE, 8)
    found = spread(LARGE, 8, memory, devices=None)
    assert (found.devices, found.sharded) == (1, False)
    assert replace(found, devices=1) == fit(LARGE, 8, memory)


def test_as_few_as_the_weights_fit_in():
    memory = LARGE.params * 16 / 0.8 / 2
    found = spread(LARGE, 64, memory, devices=None)
    assert found.sharded
    assert found.devices > 2
    with pytest.raises(TooLargeError):
        fit(LARGE, 64, memory, shards=found.devices // 2)


def test_weights_stay_whole_where_they_may():
    found = spread(LARGE, 8, 2 * training_bytes(LARGE, 8), devices=4)
    assert (found.devices, found.sharded, found.micro_batch_size) == (4, False, 2)


def test_split_over_gpus_no_gradient_is_held_whole():
    """32 layers of width 4096 on four of 80 GB each."""
    large = Shape(
        d_model=4096, num_layers=32, num_heads=32, d_ff=16384, vocab_size=50304, context_length=2048
    )
    found = spread(large, 8, 80e9, "bfloat16", fused=True, devices=None)
    assert (found.devices, found.sharded) == (4, True)


def test_what_fits_nowhere_is_told():
    with pytest.raises(TooLargeError, match="24x1024"):
        spread(LARGE, 64, 1e8, devices=None)
