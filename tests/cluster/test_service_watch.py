"""What hangs, dies with its machine, diverges or is given up: told apart, paid once, removed."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from course_client import CourseClient
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError
from serving import COURSE, KEY, serving, settings_of

from cluster.service import executors, tasks
from cluster.service.configuration import Configuration
from cluster.service.desk import Desk
from cluster.service.executors import AT_ONCE, Threads
from cluster.service.pulse import Beat
from cluster.service.records import Answer
from cluster.service.refusals import OutOfRange, Silent
from cluster.service.runner import KEPT, Runner
from cluster.service.state import prepare
from cluster.service.watchdog import Watchdog
from cluster.service.work import DivergedError, trial_of
from tuner.slot import Slot

ASKED = Configuration(**COURSE)
FLOPS = ASKED.train_flops


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class FakeRay:
    """Ray's tasks, whose ends a test decides."""

    def __init__(self):
        self.over, self.canceled, self.count = {}, [], 0

    def put(self, value):
        return value

    def remote(self, **_):
        return lambda _: Task(self)

    def cluster_resources(self):
        return {"CPU": 4.0}

    def wait(self, references, **_):
        return [r for r in references if r in self.over], []

    def get(self, reference):
        outcome = self.over[reference]
        if isinstance(outcome, RayError):
            raise outcome
        if isinstance(outcome, BaseException):
            raise RayTaskError("answer", "a traceback", outcome)
        return outcome

    def cancel(self, reference, *, force):
        assert force
        self.canceled.append(reference)


class Task:
    def __init__(self, ray):
        self.ray = ray

    def remote(self, *_):
        self.ray.count += 1
        return self.ray.count


class Machines:
    """Of which one may be lost."""

    possible, lost = True, None

    def look(self):
        pass

    def explain(self, _):
        return self.lost


@pytest.fixture
def state(tmp_path):
    made = prepare(settings_of(resources={"silence": 20}), tmp_path)
    ledger = made.ledger()
    ledger.add_key("ada", "k")
    ledger.write_fact("slot", Slot().to_json())
    ledger.close()
    return replace(made, settings=settings_of(backend="train", resources={"silence": 20}))


@pytest.fixture
def ray(monkeypatch):
    made = FakeRay()
    monkeypatch.setattr(tasks, "ray", made)
    monkeypatch.setattr(tasks, "Losses", Machines)
    monkeypatch.setattr(tasks, "LOOK_EVERY", 0.0)
    return made


@pytest.fixture
def runner(state, ray):
    made = Runner(state, tasks.RayTasks(state))
    made.executor._watchdog = Watchdog(state, made.executor._pulse, Clock())
    yield made
    made.ledger.close()


def ask(runner, asked=ASKED):
    ledger = runner.ledger
    return ledger.accept(ledger.keys()[0], asked, budget=1e18, at_most=9)


def books(runner):
    key = runner.ledger.keys()[0]
    return key.charged, key.reserved


def test_a_training_that_ceases_to_report_is_ended_and_tried_again(runner, state, ray):
    run, clock = ask(runner), runner.executor._watchdog._clock
    runner.turn()
    clock.now += 1000  # it waits for a machine: that is no silence
    assert runner.turn() is False
    state.pulse(ASKED).beat()
    runner.turn()
    clock.now += 19
    assert runner.turn() is False
    clock.now += 2
    runner.turn()
    assert ray.canceled == [1]
    again = runner.ledger.run(run.id)
    assert (again.status, again.attempts, again.deaths) == ("running", 2, 1)
    assert runner.turn() is False  # its first attempt's pulse is not its second's


def test_who_reports_is_not_silent(runner, state):
    ask(runner)
    runner.turn()
    for second in range(5):
        state.pulse(ASKED).beat()
        os.utime(state.pulse(ASKED).path, (second, second))
        assert runner.turn() is False
        runner.executor._watchdog._clock.now += 15


def test_patience_grows_with_what_the_next_report_takes(state):
    slow = settings_of(resources={"flops_per_second": 1e10})
    slow = slow.model_copy(update={"backend": "train"})
    watchdog = Watchdog(
        replace(state, settings=slow), lambda _: state.pulse(ASKED), clock := Clock()
    )
    state.pulse(ASKED).beat()
    assert not watchdog.hanging([Asking])
    clock.now += 9_000  # its 1e16 FLOP take a hundred times as long
    assert not watchdog.hanging([Asking])
    clock.now += 1e8
    ((run, error),) = watchdog.hanging([Asking])
    assert run is Asking
    assert str(error) == "it hung: no report for 100009000 s"


@pytest.mark.parametrize(("seconds", "allowed"), [(0.0, 60), (40_000.0, 400_000)])
def test_a_law_may_be_silent_for_what_it_pretends_and_no_longer(tmp_path, seconds, allowed):
    state = prepare(settings_of(law={"seconds_per_trial": seconds}), tmp_path)
    if seconds:
        allowed /= len(trial_of(state, ASKED).report_steps)
    sign = Beat()
    watchdog = Watchdog(state, lambda _: sign, clock := Clock())
    sign.beat()
    assert not watchdog.hanging([Asking])
    clock.now += 0.99 * allowed
    assert not watchdog.hanging([Asking])
    clock.now += 0.51 * allowed  # whole steps: a report may be due a little later
    assert watchdog.hanging([Asking])


HANGS = {"faults": {"hangs": 1.0}}


def test_a_law_that_hangs_is_told_refunded_and_in_nobodys_way(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "LOOK_EVERY", 0.0)
    limits, resources = {"attempts": 2}, {"silence": 0.2}
    with serving(tmp_path, law=HANGS, limits=limits, resources=resources) as (url, state):
        client = CourseClient(url, KEY)
        with ThreadPoolExecutor(AT_ONCE + 1) as pool:  # more than there are places
            told = list(pool.map(lambda n: client.loss(**COURSE | {"d_model": 64 + n}),
                                 range(AT_ONCE + 1)))  # fmt: skip
        assert {answer.status_code for answer in told} == {503}
        assert "HangError: it hung: no report for " in told[0].json()["message"]
        ledger = state.ledger()
        (key,) = ledger.keys()
        assert (key.charged, key.reserved) == (0, 0)
        assert {run.attempts for run in ledger.everybodys("failed")} == {2}
        ledger.close()


def test_what_is_given_up_as_it_hangs_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "LOOK_EVERY", 0.0)
    state = prepare(settings_of(law=HANGS, resources={"silence": 0.2}), tmp_path)
    runner = Runner(state, Threads(state, at_once=1))
    runner.ledger.add_key("ada", "k")
    run = ask(runner)
    runner.turn()
    runner.ledger.cancel(runner.ledger.keys()[0], run.id)
    runner.turn()
    assert not runner.executor.has_room()
    deadline = time.monotonic() + 10
    while not runner.executor.has_room():
        assert time.monotonic() < deadline
        runner.turn()
    assert runner.ledger.run(run.id).status == "canceled"
    runner.ledger.close()


class Asking:
    id, configuration = "x", ASKED


def test_a_lost_machine_is_no_death_of_the_run(runner, ray):
    run, machines = ask(runner), runner.executor._losses
    for attempt in range(1, 8):
        runner.turn()
        ray.over[attempt] = WorkerCrashedError()
        machines.lost = None
        runner.turn()
        assert runner.ledger.run(run.id).status == "running"  # too early to say
        machines.lost = True
    runner.turn()
    assert runner.ledger.run(run.id).deaths == 0


def test_a_worker_that_no_lost_machine_explains_died_by_itself(runner, ray):
    run = ask(runner)
    runner.executor._losses.lost = False
    for attempt in range(1, 5):
        runner.turn()
        ray.over[attempt] = WorkerCrashedError()
    runner.turn()
    assert runner.ledger.run(run.id).status == "failed"
    assert books(runner) == (0, 0)


def test_a_training_that_diverged_is_paid_and_not_trained_again(runner, state, ray):
    run = ask(runner)
    runner.turn()
    state.checkpoint(ASKED).parent.mkdir(exist_ok=True)
    state.checkpoint(ASKED).write_bytes(b"")
    ray.over[1] = DivergedError("diverged", FLOPS // 4)
    runner.turn()
    assert books(runner) == (FLOPS // 4, 0)
    assert ask(runner).id == run.id
    assert not list(state.checkpoints.iterdir())
    desk = Desk(state)
    with pytest.raises(OutOfRange, match=f"diverged; {FLOPS // 4} FLOP charged"):
        asyncio.run(desk.answered(runner.ledger.keys()[0], ASKED))
    desk.close()


def test_what_is_canceled_as_it_ends_is_charged_whole_and_then_free(runner, ray):
    run = ask(runner)
    runner.turn()
    ray.over[1] = Answer(loss=3.5, by="test")
    runner.ledger.cancel(runner.ledger.keys()[0], run.id)
    runner.turn()
    assert books(runner) == (FLOPS, 0)
    assert ask(runner).loss == 3.5
    assert books(runner) == (FLOPS, 0)


def test_what_is_canceled_before_a_machine_took_it_is_free(runner):
    run = ask(runner)
    runner.turn()
    runner.ledger.cancel(runner.ledger.keys()[0], run.id)
    runner.turn()
    assert books(runner) == (0, 0)


def test_what_is_given_up_is_kept_for_a_week_and_no_longer(runner, state):
    ask(runner)
    others = [replace(ASKED, d_model=width) for width in (64, 96)]
    for asked in (ASKED, *others):
        state.pulse(asked).beat()
        state.checkpoint(asked).write_bytes(b"")
    for asked in (ASKED, others[0]):
        for path in (state.checkpoint(asked), state.pulse(asked).path):
            os.utime(path, (0, time.time() - KEPT - 60))
    runner.tidy()
    kept = {path.name for path in state.checkpoints.iterdir()}
    assert kept == {
        path.name for asked in (ASKED, others[1])
        for path in (state.checkpoint(asked), state.pulse(asked).path)
    }  # fmt: skip


def test_health_is_the_runners_too(state):
    desk = Desk(state)
    with pytest.raises(Silent):
        desk.check()
    runner = Runner(state, Threads(state))
    runner.start()
    desk.check()
    runner.executor.has_room = None  # it fails at its next turn
    deadline = time.monotonic() + 10
    while runner.error is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.utime(state.runner.path, (0, time.time() - 60))
    with pytest.raises(Silent):
        desk.check()
    runner.stop()
    desk.close()


def test_what_cannot_be_removed_ends_no_service(runner, state):
    state.checkpoint(ASKED).mkdir(parents=True)  # no file: to unlink it is an error
    os.utime(state.checkpoint(ASKED), (0, time.time() - KEPT - 60))
    runner.tidy()
    state.forget(ASKED)
    assert state.checkpoint(ASKED).exists()
