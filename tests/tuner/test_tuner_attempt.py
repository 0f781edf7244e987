"""What an attempt finds of the one before, and what becomes of it."""

import pickle
from types import SimpleNamespace

import pytest
from driving import bundle_of, engine_in

from tuner.attempt import attempt, checkpoint_of, read
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.driver import Driver
from tuner.storage import Place
from tuner.trainable import result


@pytest.fixture
def job(settled, tmp_path):
    sweep = settled(budgets=[1e13], shapes={"per_budget": 3})
    return Job(sweep=sweep, vocab_size=256, corpus=None, checkpoints=Place.of(tmp_path))


@pytest.fixture
def engine(job, tmp_path):
    return engine_in(job.sweep, tmp_path)


class Broken:
    """Raises when it is unpickled: a class that is gone, a file of torch's cut short."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return raised, (self.error,)


def raised(error):
    raise error


ERRORS = [KeyError("x"), AttributeError("x"), ValueError("x"), MemoryError(), RuntimeError("zip")]
CONTENTS = [b"", b"neither", pickle.dumps((1, 2))[:-3], pickle.dumps(3), pickle.dumps(({}, [3]))]


def refused(place):
    raise OSError("read-only file system")


@pytest.mark.parametrize("content", CONTENTS + [pickle.dumps(Broken(error)) for error in ERRORS])
def test_a_broken_checkpoint_is_told_and_the_trial_begins_anew(job, engine, capsys, content):
    trial = engine.ask()
    checkpoint = checkpoint_of(job, trial.key)
    checkpoint.write(content)
    reports = list(attempt(contract.start(job, trial), checkpoint))
    assert [progress.step for progress in reports] == list(trial.report_steps)
    told = capsys.readouterr().err
    assert f"{trial.key}.pickle: broken" in told
    assert "starting afresh" in told


def test_a_checkpoint_is_read_once_an_attempt(job, engine, monkeypatch):
    trial = engine.ask()
    checkpoint, reads = checkpoint_of(job, trial.key), []
    first = attempt(contract.start(job, trial), checkpoint)
    seen = [next(first), next(first)]
    whole = Place.read
    monkeypatch.setattr(Place, "read", lambda self: reads.append(self) or whole(self))
    saved = read(checkpoint)
    assert saved.step == seen[-1].step
    again = list(attempt(contract.start(job, trial), checkpoint, saved))
    assert again[:2] == seen
    assert [progress.step for progress in again] == list(trial.report_steps)
    assert len(reads) == 1


def test_a_checkpoint_that_cannot_be_removed_ends_no_sweep(job, engine, monkeypatch, capsys):
    driver, trial = Driver(engine, job), engine.ask()
    for progress in contract.start(job, trial):
        last = {**result(trial.key, progress, job, "law"), "began": 0}
    monkeypatch.setattr(Place, "remove", refused)
    assert driver.scheduler.on_trial_result(None, None, last) == driver.scheduler.CONTINUE
    assert engine.ledger.record(trial.key).status == "completed"
    assert "read-only file system; it stays there" in capsys.readouterr().err


def test_where_a_cut_trial_s_checkpoint_stays_its_process_ends(job, engine, monkeypatch):
    driver, cut, other = Driver(engine, job), engine.ask(), engine.ask()
    driver.bundles["ray's name"] = bundle_of(cut, other)
    ray_trial = SimpleNamespace(trial_id="ray's name")
    first = {**result(cut.key, next(iter(contract.start(job, cut))), job, "law"), "began": 0}
    monkeypatch.setattr(engine, "_stopped", lambda *_: ("pruned", "for the test"))
    monkeypatch.setattr(Place, "remove", refused)
    assert driver.scheduler.on_trial_result(None, ray_trial, first) == driver.scheduler.STOP
    assert engine.ledger.record(cut.key).status == "pruned"
    assert engine.ledger.record(other.key).status == "waiting"
    assert engine.ledger.deaths(other.key) == 0  # no fault of its own


def test_what_a_cap_cut_keeps_its_checkpoint(job, engine, monkeypatch):
    """Of several in one process the last: by theirs the others hear that it is over."""
    driver, trials = Driver(engine, job), [engine.ask() for _ in range(2)]
    driver.bundles["ray's name"] = bundle_of(*trials)
    ray_trial = SimpleNamespace(trial_id="ray's name")
    monkeypatch.setattr(type(engine.meter), "spent", True)
    said = []
    for trial in trials:
        told = next(attempt(contract.start(job, trial), checkpoint_of(job, trial.key)))
        said.append(
            driver.scheduler.on_trial_result(
                None, ray_trial, {**result(trial.key, told, job, "law"), "began": 0}
            )
        )
    assert said == [driver.scheduler.CONTINUE, driver.scheduler.STOP]
    assert all(engine.ledger.record(trial.key).is_cut for trial in trials)
    assert [checkpoint_of(job, trial.key).exists() for trial in trials] == [False, True]
    assert [engine.ledger.record(trial.key).begins_anew for trial in trials] == [True, False]
