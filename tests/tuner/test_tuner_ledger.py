import random
import threading

import pytest

from model.progress import Progress
from tuner.ledger import Ledger
from tuner.question import Question


def question(number):
    return Question(budget=1e12, size=(1, 16), learning_rate=0.01, number=number, seed=0)


def progress(step, flops):
    return Progress(
        step=step, tokens=step, flops=flops, flops_evaluation=0, loss=3.0, loss_se=0.1,
        train_loss=3.0, learning_rate=0.01, seconds=1.0,
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


def add(ledger, number=0):
    ledger.add(question(number), optuna=number)
    return question(number).key


def test_flops_move_from_reserved_to_charged(ledger):
    key = add(ledger)
    assert ledger.reserve(key, 100, cap=100)
    assert ledger.committed() == 100
    ledger.report(key, progress(1, 30), {"device": "x"})
    record = ledger.record(key)
    assert (record.charged, record.reserved, record.attempts) == (30, 70, 1)
    ledger.settle(key, "pruned", "why")
    record = ledger.record(key)
    assert (record.charged, record.reserved, record.status) == (30, 0, "pruned")
    assert ledger.committed() == ledger.charged() == 30


def test_a_report_told_twice_is_paid_once(ledger):
    key = add(ledger)
    ledger.reserve(key, 100, cap=100)
    for _ in range(2):
        ledger.report(key, progress(1, 30), {})
    assert ledger.charged() == 30
    assert len(ledger.reports(key)) == 1


def test_the_cap_refuses(ledger):
    first, second = add(ledger, 0), add(ledger, 1)
    assert ledger.reserve(first, 60, cap=100)
    assert not ledger.reserve(second, 41, cap=100)
    assert ledger.record(second).status == "waiting"
    assert ledger.reserve(second, 40, cap=100)


def test_lost_work_is_charged(ledger):
    key = add(ledger)
    ledger.reserve(key, 100, cap=200)
    ledger.report(key, progress(1, 25), {})
    ledger.settle(key, "waiting", "died", lost=25)
    assert ledger.charged() == 50
    assert ledger.reserve(key, 75, cap=200)
    ledger.report(key, progress(4, 100), {})
    ledger.settle(key, "completed")
    assert ledger.record(key).charged == 125
    assert ledger.record(key).attempts == 2


def test_beyond_sixty_three_bits(ledger):
    key = add(ledger)
    assert ledger.reserve(key, 10**22 + 1, cap=1e23)
    assert ledger.committed() == 10**22 + 1


def test_it_is_all_there_after_reopening(tmp_path):
    first = Ledger(tmp_path / "l.db")
    key = add(first)
    first.reserve(key, 10, cap=10)
    first.report(key, progress(1, 5), {"device": "x"})
    first.write_fact("a", "b")
    again = Ledger(tmp_path / "l.db")
    assert again.record(key) == first.record(key)
    assert again.record(key).question == question(0)
    assert again.reports(key) == [progress(1, 5)]
    assert again.fact("a") == "b"
    assert again.fact("c") is None
    first.close()
    again.close()


def test_an_unknown_trial(ledger):
    with pytest.raises(KeyError, match="nobody"):
        ledger.record("nobody")


@pytest.mark.parametrize("seed", range(20))
def test_no_interleaving_passes_the_cap(tmp_path, seed):
    cap, path = 1000, tmp_path / "l.db"
    book = Ledger(path)
    keys = [add(book, number) for number in range(40)]
    random.Random(seed).shuffle(keys)

    def spend(mine):
        ledger, rng = Ledger(path), random.Random(str((seed, mine)))
        for key in mine:
            asked = rng.randrange(10, 120)
            if ledger.reserve(key, asked, cap):
                ledger.report(key, progress(1, asked // 2), {})
                ledger.settle(key, rng.choice(["pruned", "completed"]), lost=rng.randrange(5))
            assert ledger.committed() <= cap
        ledger.close()

    threads = [threading.Thread(target=spend, args=(keys[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [record for record in book.records() if not record.attempts]
    assert refused
    assert book.committed() == book.charged() <= cap
    assert cap - book.charged() < 120  # the refused asked for no more than that
    book.close()
