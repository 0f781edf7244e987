"""Several logical trials in one process: what is asked together, paid, cut and handed back."""

import random

import pandas as pd
import pytest
from driving import drive_bundles, engine_in, table

from tuner import bundling, simulate
from tuner.backends.contract import AttemptError, FinalError, OutOfMemoryError
from tuner.bundle import Bundle
from tuner.engine import Nothing
from tuner.ledger import Ledger
from tuner.slot import Slot

SLOT = Slot()
STACKED = {"resources": {"stack": 4}}
FEW = {
    "budgets": [1e13], "shapes": {"per_budget": 3}, "search": {"trials": 4}, "cap": {"flops": 1e15},
}  # fmt: skip


def asked(engine, free=1):
    bundle = bundling.ask(engine, SLOT, free)
    return [engine.trial(engine.ledger.record(key)) for key in bundle.keys]


def test_one_process_gets_the_rates_of_one_shape(small, tmp_path):
    engine = engine_in(small(search={"trials": 4}, **STACKED), tmp_path)
    first, second = asked(engine), asked(engine)
    for trials in (first, second):
        assert len(trials) == 4
        assert len({(t.question.budget, t.shape, t.batch_size) for t in trials}) == 1
        assert len({t.question.learning_rate for t in trials}) == 4
    assert first[0].shape != second[0].shape
    assert engine.ledger.reserved() == sum(t.flops for t in first + second)
    numbers = {engine.ledger.record(t.key).optuna for t in first + second}
    assert len(numbers) == 8  # each has its own entry in the study


@pytest.mark.parametrize(("free", "members"), [(1, 4), (2, 4), (4, 2), (8, 1)])
def test_no_slot_is_left_idle(small, tmp_path, free, members):
    sweep = small(budgets=[1e13], shapes={"per_budget": 3}, search={"trials": 4},
                  resources={"stack": 8})  # fmt: skip
    engine = engine_in(sweep, tmp_path)
    for _ in range(0 if free < 4 else 1):
        asked(engine)  # four of twelve are gone
    assert len(asked(engine, free)) == members


def test_under_a_short_cap_every_size_has_one_rate_before_any_has_two(small, tmp_path):
    sweep = small(
        budgets=[1e13], shapes={"per_budget": 5}, search={"trials": 4}, cap={"flops": 7e13},
        **STACKED,
    )  # fmt: skip
    engine = engine_in(sweep, tmp_path)
    first = [asked(engine) for _ in range(5)]
    assert [len(trials) for trials in first] == [1] * 5
    assert len({trials[0].shape for trials in first}) == 5


def test_trials_of_another_batch_size_wait_for_a_process_of_their_own(small, tmp_path):
    sweep = small(search={"trials": 8, "batch_size": [4, 8], "sampler": "random"},
                  resources={"stack": 8})  # fmt: skip
    engine = engine_in(sweep, tmp_path)
    batches = [{t.batch_size for t in asked(engine)} for _ in range(6)]
    assert all(len(sizes) == 1 for sizes in batches)
    assert {size for sizes in batches for size in sizes} == {4, 8}
    assert len(engine.ledger.records("waiting")) <= 1


def test_a_settled_sweep_has_one_table_stacked_or_not(settled, tmp_path):
    simulate.simulate(settled(**FEW), tmp_path / "apart", slots=2)
    stacked = settled(**FEW, **STACKED)
    simulate.simulate(stacked, tmp_path / "stacked", slots=2)
    drive_bundles(engine_in(stacked, tmp_path / "dying"), random.Random(1), tmp_path, deaths=0.1)
    by_trial = [
        table(stacked, tmp_path / name).sort_values("trial", ignore_index=True)
        for name in ("apart", "stacked", "dying")
    ]
    pd.testing.assert_frame_equal(by_trial[0], by_trial[1])
    pd.testing.assert_frame_equal(by_trial[0], by_trial[2])


def test_what_is_cut_leaves_and_spends_nothing_more(small, tmp_path):
    sweep = small(**FEW, **STACKED)
    engine = engine_in(sweep, tmp_path)
    work = drive_bundles(engine, random.Random(1), tmp_path)
    pruned = engine.ledger.records("pruned")
    assert pruned
    for record in pruned:
        last = engine.ledger.last(record.key)
        assert record.charged == last.flops < engine.trial(record).flops
        assert work[record.key] == last.step  # its run was not asked for another report


@pytest.mark.parametrize("seed", range(2))
def test_deaths_lose_nothing_and_the_cap_holds_to_the_flop(small, tmp_path, seed):
    sweep = small(**FEW | {"cap": {"flops": 1.3e14}}, **STACKED)
    engine = engine_in(sweep, tmp_path)
    drive_bundles(engine, random.Random(seed), tmp_path, deaths=0.15)  # asserts the cap throughout
    assert engine.ledger.reserved() == 0
    assert engine.ledger.charged() == sum(r.charged for r in engine.ledger.records())
    assert not engine.ledger.records("running", "waiting")
    died = [r for r in engine.ledger.records() if r.attempts > 1]
    assert died


def test_a_sweep_interrupted_in_the_middle_goes_on(settled, tmp_path):
    sweep = settled(**FEW, **STACKED)
    drive_bundles(engine_in(sweep, tmp_path), random.Random(2), tmp_path, stop_after=17)
    again = engine_in(sweep, tmp_path)
    assert any(again.ledger.last(r.key) for r in again.ledger.records("waiting"))
    drive_bundles(again, random.Random(3), tmp_path)
    simulate.simulate(settled(**FEW), tmp_path / "calm")
    found, calm = (
        table(sweep, folder).sort_values("trial", ignore_index=True)
        for folder in (tmp_path, tmp_path / "calm")
    )
    pd.testing.assert_frame_equal(found, calm)


def test_the_last_attempt_of_a_trial_is_its_own(small, tmp_path):
    sweep = small(resources={"stack": 3, "max_attempts": 3}, cap={"flops": 1e17})
    engine = engine_in(sweep, tmp_path)
    first = asked(engine)
    for deaths in (1, 2):
        for trial in first:
            engine.fail(trial.key, "its worker died", AttemptError())
        asked_again = asked(engine)
        assert asked_again == first[: len(asked_again)]
        assert len(asked_again) == (3 if deaths == 1 else 1)


def test_members_share_the_time_of_their_slot(small, tmp_path):
    now = [0.0]
    engine = engine_in(small(**STACKED), tmp_path, clock=lambda: now[0])
    one, two, three = (trial.key for trial in asked(engine))
    engine.begin(one, two, three)
    now[0] = 30.0
    engine.fail(one, "ended")
    assert engine.ledger.record(one).seconds == pytest.approx(10.0)
    now[0] = 50.0
    for key in (two, three):
        engine.fail(key, "ended")
        assert engine.ledger.record(key).seconds == pytest.approx(20.0)
    assert engine.ledger.seconds() == pytest.approx(50.0)


def test_a_report_of_one_breaks_the_silence_of_all(small, tmp_path):
    now = [0.0]
    sweep = small(resources={"stack": 3, "silence": 20.0})
    engine = engine_in(sweep, tmp_path, clock=lambda: now[0])
    trials = asked(engine)
    engine.begin(*(trial.key for trial in trials))
    now[0] = 15.0
    engine.meter.book(trials[0].key)
    now[0] = 34.0
    assert not engine.silent()
    now[0] = 36.0
    assert set(engine.silent()) == {trial.key for trial in trials}


def test_simulated_time_of_a_stack_is_the_sum_of_its_trials(settled, tmp_path):
    flops = {"flops_per_second": 1e12}
    shape = {"budgets": [1e13], "search": {"trials": 4}}
    apart = settled(**shape, resources=flops)
    stacked = settled(**shape, resources={**flops, "stack": 4})
    took = simulate.simulate(apart, tmp_path / "apart")
    assert simulate.simulate(stacked, tmp_path / "stacked") == pytest.approx(took)
    ledger = Ledger(tmp_path / "stacked" / "ledger.db")
    assert ledger.seconds() == pytest.approx(took)
    ledger.close()


def test_a_bundle_survives_ray_s_config(small, tmp_path):
    bundle = bundling.ask(engine_in(small(**STACKED), tmp_path), SLOT)
    assert not isinstance(bundle, Nothing)
    assert Bundle.from_dict(bundle.to_dict()) == bundle


@pytest.mark.parametrize("error", [FinalError("refused"), OutOfMemoryError(1)])
def test_what_one_of_several_raised_is_final_for_none(small, tmp_path, error):
    engine = engine_in(small(search={"trials": 4}, **STACKED), tmp_path)
    keys = [trial.key for trial in asked(engine)]
    for key in keys:
        engine.fail(key, "why", error, others=len(keys) - 1)
    found = [engine.ledger.record(key) for key in keys]
    assert {(record.status, record.micro_batch_size) for record in found} == {("waiting", None)}
    alone = engine.ask()
    engine.fail(alone.key, "why", error)
    assert engine.ledger.record(alone.key).status == "failed"


def test_where_there_is_one_attempt_it_is_alone(small, tmp_path):
    engine = engine_in(small(resources={"stack": 4, "max_attempts": 1}), tmp_path)
    assert len(asked(engine)) == 1
