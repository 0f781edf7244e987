"""The ledger: no interleaving overspends, asks twice or loses a FLOP."""

import sqlite3
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from serving import COURSE

from cluster.service.configuration import Configuration
from cluster.service.ledger import Ledger
from cluster.service.records import Answer
from cluster.service.refusals import (
    AlreadyEnded,
    NoSuchRun,
    OverBudget,
    Refusal,
    TooMany,
    UnknownKey,
)

ASKED = Configuration(**COURSE)
ANSWER = Answer(loss=3.5, by="test")


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "service.db")
    made.add_key("ada", "secret of ada")
    made.add_key("bob", "secret of bob", budget=5e16)
    yield made
    made.close()


def width(number):
    return replace(ASKED, d_model=64 + number)


def accept(ledger, asked, *, key=0, budget=1e17, at_most=100):
    return ledger.accept(ledger.keys()[key], asked, budget=budget, at_most=at_most)


def balance(ledger, key=0):
    known = ledger.keys()[key]
    return known.charged, known.reserved


def test_flops_are_reserved_then_charged(ledger):
    run = accept(ledger, ASKED)
    assert balance(ledger) == (0, 10**16)
    assert ledger.begin(run)
    ledger.settle(ASKED, ANSWER)
    ledger.settle(ASKED, ANSWER)
    assert balance(ledger) == (10**16, 0)
    assert ledger.run(run.id).loss == 3.5


def test_nobody_else_on_the_machine_reads_it(ledger):
    accept(ledger, ASKED)
    files = list(ledger.path.parent.glob("service.db*"))
    assert len(files) == 3  # SQLite's log lies beside it
    assert not any(file.stat().st_mode & 0o077 for file in files)


def test_a_commit_that_fails_changes_nothing_and_blocks_nobody(ledger):
    class Full:
        """A disk that is full at the first commit."""

        def __init__(self, db):
            self.db, self.full = db, True

        def execute(self, text, *values):
            if text == "COMMIT" and self.full:
                self.full = False
                raise sqlite3.OperationalError("database or disk is full")
            return self.db.execute(text, *values)

        def __getattr__(self, name):
            return getattr(self.db, name)

    ledger._db = Full(ledger._db)
    with pytest.raises(sqlite3.OperationalError, match="is full"):
        accept(ledger, ASKED)
    assert balance(ledger) == (0, 0)
    accept(ledger, ASKED)
    assert balance(ledger) == (0, 10**16)


def test_what_fails_for_our_fault_is_given_back_and_may_be_asked_anew(ledger):
    run = accept(ledger, ASKED)
    ledger.refund(run, "failed", "the machine burned")
    ledger.refund(run, "failed", "again")
    assert balance(ledger) == (0, 0)
    again = accept(ledger, ASKED)
    assert again.id != run.id
    assert balance(ledger) == (0, 10**16)


def test_a_repeat_is_the_same_run_whether_it_waits_trains_or_is_answered(ledger):
    run = accept(ledger, ASKED)
    assert accept(ledger, ASKED).id == run.id
    ledger.begin(run)
    assert accept(ledger, ASKED).id == run.id
    ledger.settle(ASKED, ANSWER)
    assert accept(ledger, ASKED, budget=0).id == run.id  # free, even with nothing left
    assert balance(ledger) == (10**16, 0)


def test_the_budget_counts_what_is_reserved_to_the_last_flop(ledger):
    accept(ledger, ASKED, budget=2e16)
    with pytest.raises(OverBudget, match="10000000000000000 of 20000000000000000"):
        accept(ledger, replace(width(1), train_flops=3 * 10**16), budget=2e16)
    accept(ledger, width(1), budget=2e16)
    with pytest.raises(OverBudget):
        accept(ledger, replace(width(2), train_flops=10**13), budget=2e16)


def test_a_key_may_have_a_budget_of_its_own(ledger):
    with pytest.raises(OverBudget):
        accept(ledger, replace(ASKED, train_flops=6 * 10**16), key=1)
    accept(ledger, replace(ASKED, train_flops=3 * 10**16), key=1)


def test_so_many_may_wait_and_no_more(ledger):
    for number in range(3):
        accept(ledger, width(number), at_most=3)
    with pytest.raises(TooMany):
        accept(ledger, width(3), at_most=3)
    ledger.settle(width(0), ANSWER)
    accept(ledger, width(3), at_most=3)


def test_an_answer_on_record_is_charged_to_who_asks_for_it_and_trained_once(ledger):
    accept(ledger, ASKED)
    waiting = accept(ledger, ASKED, key=1)
    ledger.settle(ASKED, ANSWER)
    assert ledger.run(waiting.id).status == "completed"
    assert balance(ledger, 0) == balance(ledger, 1) == (10**16, 0)
    ledger.add_key("eve", "secret of eve")
    assert accept(ledger, ASKED, key=2).status == "completed"
    assert balance(ledger, 2) == (10**16, 0)


def test_one_training_at_a_time_for_one_configuration(ledger):
    accept(ledger, ASKED)
    accept(ledger, ASKED, key=1)
    ledger.begin(ledger.next_queued())
    assert ledger.next_queued() is None


def test_whoever_trains_least_is_next(ledger):
    for number in range(4):
        accept(ledger, width(number))
    theirs = accept(ledger, width(9), key=1)
    ledger.begin(ledger.next_queued())
    assert ledger.next_queued().id == theirs.id


def test_a_revoked_key_is_nobodys_at_once(ledger):
    key = ledger.keys()[0]
    assert ledger.revoke_key("ada")
    assert not ledger.revoke_key("ada")
    with pytest.raises(UnknownKey):
        ledger.accept(key, ASKED, budget=1e18, at_most=9)


def test_names_and_keys_are_there_once(ledger):
    for name, key in (("ada", "another"), ("another", "secret of ada")):
        with pytest.raises(ValueError, match="there already"):
            ledger.add_key(name, key)


def test_no_key_is_stored(ledger):
    ledger.close()
    for path in ledger.path.parent.iterdir():
        assert b"secret of" not in path.read_bytes()


def test_canceling_refunds_what_waits_and_charges_what_was_spent(ledger):
    waiting, training = accept(ledger, ASKED), accept(ledger, width(1))
    with pytest.raises(NoSuchRun):
        ledger.cancel(ledger.keys()[1], waiting.id)
    ledger.cancel(ledger.keys()[0], waiting.id)
    assert balance(ledger) == (0, 10**16)
    ledger.begin(training)
    ledger.cancel(ledger.keys()[0], training.id)
    assert balance(ledger) == (0, 10**16)  # until the trainer says what it spent
    (stopping,) = ledger.stopping()
    ledger.stopped(stopping, 10**15)
    ledger.stopped(stopping, 10**15)
    assert balance(ledger) == (10**15, 0)
    with pytest.raises(AlreadyEnded):
        ledger.cancel(ledger.keys()[0], training.id)


def test_what_was_paid_for_a_canceled_run_is_not_paid_again(ledger):
    key = ledger.keys()[0]
    for spent in (4 * 10**15, 7 * 10**15):
        run = accept(ledger, ASKED)
        ledger.begin(run)
        ledger.cancel(key, run.id)
        ledger.stopped(ledger.run(run.id), spent)
        assert balance(ledger) == (spent, 0)
    again = accept(ledger, ASKED, budget=10**16)
    assert balance(ledger) == (7 * 10**15, 3 * 10**15)
    ledger.settle(ASKED, ANSWER)
    assert ledger.run(again.id).charged == 3 * 10**15
    assert balance(ledger) == (10**16, 0)


def test_asked_again_while_it_still_stops_it_costs_what_it_costs(ledger):
    run = accept(ledger, ASKED)
    ledger.begin(run)
    ledger.cancel(ledger.keys()[0], run.id)
    accept(ledger, ASKED)
    ledger.stopped(ledger.run(run.id), 4 * 10**15)
    ledger.settle(ASKED, ANSWER)
    assert balance(ledger) == (10**16, 0)


def test_sums_beyond_64_bits_are_exact(ledger):
    large = replace(ASKED, train_flops=9 * 10**18)
    for number in range(3):
        accept(ledger, replace(large, d_model=64 + number), budget=1e20)
    assert balance(ledger) == (0, 27 * 10**18)


def test_many_connections_spend_the_budget_exactly(ledger):
    def ask(number):
        own = Ledger(ledger.path)
        barrier.wait()
        try:
            for turn in range(10):
                try:
                    accept(own, width((number * 7 + turn * 3) % 60), budget=37 * 10**16)
                except OverBudget:
                    refused.append(number)
        finally:
            own.close()

    barrier, refused = threading.Barrier(8), []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    runs = ledger.runs(ledger.keys()[0])
    assert len(runs) == len({run.configuration for run in runs}) == 37
    assert balance(ledger) == (0, 37 * 10**16)
    assert refused


def test_the_database_itself_forbids_a_second_run(ledger):
    accept(ledger, ASKED)
    with pytest.raises(sqlite3.IntegrityError):
        ledger._db.execute(
            "INSERT INTO runs (id, key, configuration, flops, status, asked) "
            "VALUES ('x', 1, ?, '1', 'queued', '')",
            (ASKED.key,),
        )


class Interleavings(RuleBasedStateMachine):
    """Any order of asking, starting, answering, failing, canceling and restarting."""

    BUDGET = 5 * 10**16

    @initialize()
    def begin(self):
        self.ledger = Ledger(self.folder / f"{uuid.uuid4().hex}.db")
        for number in range(2):
            self.ledger.add_key(f"k{number}", f"secret {number}")
        self.answered = [{}, {}]  # by key, what was told to a client

    @rule(key=st.integers(0, 1), number=st.integers(0, 7))
    def ask(self, key, number):
        try:
            run = accept(self.ledger, width(number), key=key, budget=self.BUDGET, at_most=4)
        except Refusal:
            return
        if run.status == "completed":
            self.answered[key][number] = run.loss

    @rule()
    def start(self):
        run = self.ledger.next_queued()
        if run is not None:
            assert self.ledger.begin(run)

    @rule(number=st.integers(0, 7))
    def answer(self, number):
        if any(run.configuration == width(number) for run in self.ledger.everybodys("running")):
            self.ledger.settle(width(number), Answer(loss=float(number), by=""))

    @rule(ends=st.sampled_from(["failed", "refused", "again"]))
    def fail(self, ends):
        for run in self.ledger.everybodys("running")[:1]:
            if ends == "again":
                self.ledger.wait_again(run, deaths=1)
            else:
                self.ledger.refund(run, ends, "")

    @rule(key=st.integers(0, 1), which=st.integers(0, 30))
    def cancel(self, key, which):
        for run in self.ledger.runs(self.ledger.keys()[key], "queued", "running")[
            which : which + 1
        ]:
            self.ledger.cancel(self.ledger.keys()[key], run.id)

    @rule(share=st.floats(0, 2))
    def stop(self, share):
        for run in self.ledger.stopping():
            self.ledger.stopped(run, int(share * run.flops))

    @rule()
    def restart(self):
        self.ledger.close()
        self.ledger = Ledger(self.ledger.path)
        for run in self.ledger.everybodys("running"):
            self.ledger.wait_again(run)

    @invariant()
    def the_books_balance(self):
        if not hasattr(self, "ledger"):
            return
        for number, key in enumerate(self.ledger.keys()):
            runs = self.ledger.runs(key)
            open_ = [r for r in runs if r.status in {"queued", "running"} or not r.ended]
            assert key.reserved == sum(run.flops for run in open_)
            assert key.charged == sum(run.charged for run in runs)
            assert key.charged + key.reserved <= self.BUDGET
            completed = {r.configuration: r for r in runs if r.status == "completed"}
            for asked in {run.configuration for run in runs}:
                paid = sum(run.charged for run in runs if run.configuration == asked)
                assert paid <= asked.train_flops
                assert paid == asked.train_flops or asked not in completed
            for width_number, loss in self.answered[number].items():
                assert completed[width(width_number)].loss == loss

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()


def test_the_books_balance_in_any_order(tmp_path):
    class Here(Interleavings):
        folder = tmp_path

    case = Here.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=25)
    case("runTest").runTest()
