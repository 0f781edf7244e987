import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from model.memory import USABLE, training_bytes
from model.speed import Speed
from tuner import ladder, space
from tuner.config import parse
from tuner.question import Question
from tuner.slot import Slot


def sweep_of(**settings):
    return parse({"name": "x", "budgets": [1e10, 1e12], **settings}, place="x")


@given(
    budget=st.floats(1e8, 1e20),
    layers=st.integers(1, 40),
    width=st.integers(1, 60).map(lambda n: 16 * n),
    batch=st.integers(1, 512),
    convention=st.sampled_from(["exact", "6ND"]),
)
def test_a_trial_spends_its_budget_to_within_one_step(budget, layers, width, batch, convention):
    sweep = sweep_of(budgets=[budget], convention=convention, training={"batch_size": batch})
    question = Question(budget=budget, size=(layers, width), learning_rate=1, number=0, seed=0)
    trial = space.trial(sweep, question, 256)
    assert trial.flops <= budget < trial.flops + trial.flops_per_step
    assert trial.flops == trial.tokens * trial.shape.flops_per_token(convention)
    assert trial.report_steps[-1] == max(1, trial.steps)
    assert list(trial.report_steps) == sorted(set(trial.report_steps))


def test_reports_fall_at_the_same_shares_for_every_shape():
    sweep = sweep_of(pruning={"rungs": [0.25, 0.5]})
    for size in [(1, 16), (2, 48), (3, 96)]:
        question = Question(budget=1e12, size=size, learning_rate=1, number=0, seed=0)
        trial = space.trial(sweep, question, 256)
        for share, step in zip((0.25, 0.5, 1), trial.report_steps, strict=True):
            assert abs(step - share * trial.steps) <= 0.5


def test_a_window_is_centered_on_the_predicted_optimum():
    rungs = [[1, 16], [1, 32], [2, 32], [2, 48], [2, 64], [2, 96], [3, 96]]
    sweep = sweep_of(shapes={"ladder": rungs, "per_budget": 3})
    at = {size: space.shape(sweep, size, 256).params_non_embedding for size in [(2, 48)]}
    window = space.window(sweep, 1e12, 256, at[2, 48])
    assert window == ((2, 32), (2, 48), (2, 64))
    assert space.window(sweep, 1e12, 256, 1) == ((1, 16), (1, 32), (2, 32))
    assert space.window(sweep, 1e12, 256, 1e12) == ((2, 64), (2, 96), (3, 96))


def test_a_first_guess_moves_with_the_square_root_of_compute():
    sweep = sweep_of(budgets=[1e17, 1e19], shapes={"per_budget": 3, "head_size": 64})
    small, large = (
        space.shape(sweep, space.window(sweep, budget, 50_000)[1], 50_000).params_non_embedding
        for budget in sweep.budgets
    )
    assert 5 < large / small < 20


def test_a_built_ladder_rises_and_reaches_beyond_the_optima():
    sweep = sweep_of(budgets=[1e17, 1e19], shapes={"head_size": 64})
    sizes = [space.shape(sweep, s, 32_000) for s in space.ladder(sweep, 32_000)]
    params = [size.params_non_embedding for size in sizes]
    assert all(b >= ladder.STEP * a for a, b in pairwise(params))
    low, high = (math.sqrt(b / 120) for b in sweep.budgets)
    assert params[-1] > high * ladder.SPREAD / 2
    assert params[0] < low * 2


@given(width=st.integers(1, 2048), head_size=st.sampled_from([8, 16, 64, 128]))
def test_heads_divide_the_width(width, head_size):
    sweep = sweep_of(shapes={"head_size": head_size})
    shape = space.shape(sweep, (1, width), 256)
    assert shape.head_size >= min(width, head_size)


def test_grid_rates_stay_off_the_edges():
    sweep = sweep_of(search={"learning_rate": [1e-3, 1e-1]})
    rates = space.rates(sweep.search.learning_rate, 4)
    assert rates[0] > 1e-3
    assert rates[-1] < 1e-1
    assert math.isclose(rates[1] / rates[0], rates[3] / rates[2])


def test_the_hash_knows_what_a_row_is_a_function_of():
    sweep = sweep_of()
    question = Question(budget=1e12, size=(1, 32), learning_rate=0.01, number=0, seed=0)
    trial = space.trial(sweep, question, 256)

    def of(sweep=sweep, trial=trial, corpus="a", slot=Slot()):  # noqa: B008  frozen
        return space.config_hash(sweep, trial, {"corpus": corpus}, slot)

    other_rate = Question(budget=1e12, size=(1, 32), learning_rate=0.02, number=0, seed=0)
    other_number = Question(budget=1e12, size=(1, 32), learning_rate=0.01, number=5, seed=0)
    assert of() == of(trial=space.trial(sweep, other_number, 256))
    assert of() == of(sweep=sweep_of(search={"trials": 9}))
    different = [
        of(corpus="b"),
        of(trial=space.trial(sweep, other_rate, 256)),
        of(sweep=sweep_of(training={"warmup": 0.1})),
        of(sweep=sweep_of(convention="6ND")),
        of(slot=Slot(speed=Speed(dtype="bfloat16"))),
        of(slot=Slot(speed=Speed(attention="explicit"))),
        of(slot=Slot(speed=Speed(threads=2))),
        of(slot=Slot(memory=training_bytes(trial.shape, 2) / USABLE)),  # half the batch at once
        of(slot=Slot(memory=1.0)),
        of(sweep=sweep_of(resources={"gpus_per_trial": 1})),
    ]
    assert len({of(), *different}) == 11
    # What was asked for, and a memory that nothing is cut for, decide nothing.
    assert of() == of(sweep=sweep_of(training={"dtype": "bfloat16"}))
    assert of() == of(slot=Slot(memory=1e12, speed=Speed(why="timed"), peaks={"cpu": 1e11}))
