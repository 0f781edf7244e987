"""Forked runs: each is, bit for bit, the run of its length alone; killed and resumed too."""

import dataclasses

import numpy as np
import pytest
import torch

from model.forks import Forks, branches, steps_taken
from model.recipe import Recipe, rate
from model.shape import Shape
from model.train import Training

SHAPE = Shape(d_model=16, num_layers=2, num_heads=2, d_ff=64, vocab_size=11, context_length=12)
RECIPE = Recipe(learning_rate=0.02, batch_size=4, cooldown_floor=0)
LENGTHS = (20, 45, 100)


def batches(step):
    steps = np.random.default_rng([1, step]).integers(1, 3, (4, 13))
    return np.cumsum(steps, axis=1) % 11


class Maker:
    """Makes trainings, and counts the steps for which they read a batch."""

    def __init__(self):
        self.read = []

    def batch(self, step):
        self.read.append(step)
        return batches(step)

    def __call__(self, recipe, steps, report_at):
        return Training(
            shape=SHAPE, recipe=recipe, steps=steps, report_at=report_at, batches=self.batch,
            held_out=[batches(1000), batches(1001)], seed=3, flops_per_step=7,
        )  # fmt: skip


def told(forked):
    return forked.steps, dataclasses.replace(forked.progress, seconds=0.0)


@pytest.mark.parametrize(
    "changed",
    [{}, {"dropout": 0.2}, {"optimizer": "muon", "weight_decay": 0.1}, {"final_fraction": 0.1}],
    ids=str,
)
def test_each_is_the_run_of_its_length_alone_bit_for_bit(changed):
    recipe = dataclasses.replace(RECIPE, **changed)
    ends = [f for f in Forks(Maker(), recipe, LENGTHS).run() if f.progress.step == f.steps]
    assert [end.steps for end in ends] == list(LENGTHS)
    for end in ends:
        # .15 of the shortest run: three steps of warm-up for all.
        alone = dataclasses.replace(recipe, schedule="wsd", warmup=3 / end.steps, cooldown=0.2)
        (_, last) = Maker()(alone, end.steps, [round(0.8 * end.steps), end.steps]).run()
        evaluated = end.progress.flops_evaluation  # earlier forks' too
        alone_last = dataclasses.replace(last, seconds=0.0, flops_evaluation=evaluated)
        assert told(end)[1] == alone_last
        assert last.final and last.flops == 7 * end.steps


def test_the_trunk_is_paid_once_and_sees_the_cooldowns_batches_as_its_own():
    maker = Maker()
    list(Forks(maker, RECIPE, LENGTHS).run())
    assert maker.read == [
        *range(20), *range(16, 45), *range(36, 100)
    ]  # fmt: skip
    assert len(maker.read) == steps_taken(RECIPE, LENGTHS) == 80 + 4 + 9 + 20


@pytest.mark.parametrize("cut", range(1, 6))
def test_cut_anywhere_and_resumed_it_is_the_uncut_one(cut, tmp_path):
    whole = [told(forked) for forked in Forks(Maker(), RECIPE, LENGTHS).run()]
    assert [(steps, p.step) for steps, p in whole] == [
        (20, 16), (20, 20), (45, 36), (45, 45), (100, 80), (100, 100)
    ]  # fmt: skip
    first = Forks(Maker(), RECIPE, LENGTHS)
    before = [told(forked) for _, forked in zip(range(cut), first.run(), strict=False)]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Forks(Maker(), RECIPE, LENGTHS)
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert before + [told(forked) for forked in second.run()] == whole


def test_a_floor_longer_than_the_shortest_runs_leaves_the_rest_exact():
    recipe = dataclasses.replace(RECIPE, warmup=0, cooldown_floor=25)
    maker = Maker()
    ends = [f.progress for f in Forks(maker, recipe, LENGTHS).run() if f.progress.final]
    assert [end.step for end in ends] == list(LENGTHS)
    assert len(maker.read) == steps_taken(recipe, LENGTHS) == 20 + 45 + 100 - 20
    for steps, branch in zip(LENGTHS, branches(recipe, LENGTHS), strict=True):
        assert [rate(s, steps, branch) == 1 for s in range(steps)].count(True) <= max(1, steps - 24)


def test_a_trunk_that_diverges_ends_all():
    wild = dataclasses.replace(
        RECIPE, learning_rate=1e30, parametrization="standard", warmup=0, grad_clip=1e30
    )
    reports = list(Forks(Maker(), wild, LENGTHS).run())
    assert len(reports) == 1
    assert reports[0].progress.diverged and reports[0].progress.final


@pytest.mark.parametrize("lengths", [[], [0, 5], [5, 5], [9, 5]])
def test_lengths_must_rise(lengths):
    with pytest.raises(ValueError, match="lengths must rise from 1"):
        Forks(Maker(), RECIPE, lengths)
