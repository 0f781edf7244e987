"""No question is paid for twice by sweeps in one storage folder."""

import random

import pandas as pd
import pytest
from driving import drive, engine_in, provenance, start, table

from tuner import space
from tuner.answers import SILENCE, Answers
from tuner.engine import Nothing
from tuner.slot import Slot

FEW = {"budgets": [1e13], "shapes": {"per_budget": 3}}


@pytest.fixture
def answers(tmp_path):
    """A function from a sweep and its code version to the answers it shares with others."""
    opened = []

    def make(sweep, code="c", **options):
        settled = provenance(sweep).determining()
        path = tmp_path / "answers.db"
        name = lambda trial: space.config_hash(sweep, trial, settled, Slot()) + code  # noqa: E731
        opened.append(Answers(path, name, f"sweep {len(opened)}", **options))
        return opened[-1]

    yield make
    for found in opened:
        found.close()


def ran(sweep, folder, answers, slots_seed=0):
    """The engine of a sweep that ran to its end."""
    engine = engine_in(sweep, folder, answers=answers)
    drive(engine, folder, random.Random(slots_seed))
    return engine


def test_the_same_sweep_elsewhere_is_free_and_its_table_the_same(settled, answers, tmp_path):
    sweep = settled(**FEW)
    ran(sweep, tmp_path / "first", answers(sweep))
    again = ran(sweep, tmp_path / "again", answers(sweep), slots_seed=1)
    assert again.ledger.charged() == again.ledger.committed() == 0
    assert {record.attempts for record in again.ledger.records()} == {0}
    pd.testing.assert_frame_equal(
        table(sweep, tmp_path / "first"), table(sweep, tmp_path / "again")
    )


def test_optuna_and_asha_learn_from_what_is_on_record(small, answers, tmp_path):
    sweep = small(**FEW, search={"trials": 4}, cap={"flops": 1e17})

    def one_slot(folder):
        engine = engine_in(sweep, folder, answers=answers(sweep))
        while not isinstance(trial := engine.ask(), Nothing):
            for progress in start(engine, trial, folder):
                if not engine.report(trial.key, progress, {}):
                    break
        return engine

    first, again = one_slot(tmp_path / "first"), one_slot(tmp_path / "again")
    assert "pruned" in first.ledger.counts()
    assert again.ledger.charged() == 0
    assert again.ledger.counts() == first.ledger.counts()
    for budget in sweep.budgets:
        told = [[(t.state, t.params, t.value) for t in e.studies.trials(budget)]
                for e in (first, again)]  # fmt: skip
        assert told[0] == told[1]


@pytest.mark.parametrize("change", ["seed", "code", "law"])
def test_another_question_is_paid_for(settled, answers, tmp_path, change):
    sweep = settled(**FEW, search={"trials": 1})
    ran(sweep, tmp_path / "first", answers(sweep))
    other = settled(
        **FEW, search={"trials": 1}, seed=int(change == "seed"),
        law={"E": 1.5} if change == "law" else {},
    )  # fmt: skip
    code = "other" if change == "code" else "c"
    again = ran(other, tmp_path / "again", answers(other, code))
    assert all(record.attempts == 1 for record in again.ledger.records())
    assert again.ledger.charged() > 0


def test_only_what_is_new_is_paid_for(settled, answers, tmp_path):
    fewer, more = settled(**FEW, search={"trials": 1}), settled(**FEW, search={"trials": 2})
    first = ran(fewer, tmp_path / "first", answers(fewer))
    again = ran(more, tmp_path / "again", answers(more))
    known = {record.key for record in first.ledger.records()}
    for record in again.ledger.records():
        assert record.attempts == (0 if record.key in known else 1)


def test_a_pruned_trial_that_would_go_on_now_is_run_whole(small, answers, tmp_path):
    learning = small(**FEW, search={"sampler": "grid", "warm_start": False, "extend": False})
    first = ran(learning, tmp_path / "first", answers(learning))
    pruned = {record.key for record in first.ledger.records("pruned")}
    assert pruned
    # Rungs stand, but nobody is cut at them: the population is never large enough.
    patient = learning.model_copy(
        update={"pruning": learning.pruning.model_copy(update={"min_population": 1000})}
    )
    again = ran(patient, tmp_path / "again", answers(patient))
    for record in again.ledger.records():
        assert record.status == "completed"
        assert record.attempts == (1 if record.key in pruned else 0)
        assert record.charged == (again.trial(record).flops if record.key in pruned else 0)


def test_what_a_kill_kept_from_the_answers_is_entered_at_the_next_start(settled, answers, tmp_path):
    sweep = settled(**FEW, search={"trials": 1})
    ran(sweep, tmp_path / "first", None)  # as if killed before it could enter anything
    engine_in(sweep, tmp_path / "first", answers=answers(sweep))
    again = ran(sweep, tmp_path / "again", answers(sweep))
    assert again.ledger.charged() == 0


def test_what_two_sweeps_ask_at_the_same_moment_one_pays_for(settled, answers, tmp_path):
    sweep = settled(**FEW)
    alone = ran(sweep, tmp_path / "alone", None)
    rng, running = random.Random(0), {}
    engines = [engine_in(sweep, tmp_path / name, answers=answers(sweep)) for name in "ab"]
    put_off = 0
    while True:
        number = rng.randrange(2)
        engine = engines[number]
        mine = [key for n, key in running if n == number]
        trial = engine.ask() if len(mine) < 2 else Nothing.YET
        if not isinstance(trial, Nothing):
            running[number, trial.key] = start(engine, trial, tmp_path)
            continue
        put_off += trial is Nothing.YET and not mine
        if not running and {e.ask() for e in engines} == {Nothing.LEFT}:
            break
        if mine:
            key = rng.choice(mine)
            if not engine.report(key, next(running[number, key]), {"device": "law"}):
                del running[number, key]
    assert put_off  # at times one had nothing to do but to wait for the other
    assert sum(engine.ledger.charged() for engine in engines) == alone.ledger.charged()
    assert all(engine.ledger.charged() for engine in engines)  # they shared the work
    tables = [table(sweep, tmp_path / name) for name in ("alone", "a", "b")]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(other, tables[0])


def test_a_question_whose_asker_is_gone_is_asked_anew(settled, answers, tmp_path):
    sweep, now = settled(**FEW, search={"trials": 1}), [0.0]
    clock = lambda: now[0]  # noqa: E731
    lost = engine_in(sweep, tmp_path / "lost", answers=answers(sweep, clock=clock))
    held = lost.ask()
    other = ran(sweep, tmp_path / "other", answers(sweep, clock=clock))
    assert other.ask() is Nothing.YET
    assert other.ledger.record(held.key).status == "waiting"
    now[0] = SILENCE / 2
    lost.live()
    now[0] = SILENCE + 1
    assert other.ask() is Nothing.YET  # it gave a sign of life
    now[0] = 2 * SILENCE
    assert other.ask().key == held.key


def test_a_sweep_that_goes_on_finds_its_own_questions_taken_by_itself(settled, answers, tmp_path):
    sweep = settled(**FEW, search={"trials": 1})
    first = engine_in(sweep, tmp_path / "first", answers=answers(sweep))
    asked = first.ask()
    again = engine_in(sweep, tmp_path / "first", answers=first.answers)
    assert again.ask().key == asked.key


def test_an_answer_given_while_another_sweep_looks_is_seen(settled, answers, tmp_path):
    sweep = settled(**FEW, search={"trials": 1})
    first, other = (engine_in(sweep, tmp_path / n, answers=answers(sweep)) for n in ("a", "b"))
    trial = first.ask()
    take = other.answers.take

    def take_late(asked):
        if asked.key == trial.key:
            for told in start(first, trial, tmp_path):
                first.report(trial.key, told, {})
        return take(asked)

    other.answers.take = take_late
    other.ask()
    record = other.ledger.record(trial.key)
    assert (record.status, record.attempts, record.charged) == ("completed", 0, 0)
