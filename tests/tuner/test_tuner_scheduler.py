import random

from tuner.scheduler import Asha


def test_the_first_to_arrive_goes_on():
    assert Asha(reduction=4, min_population=2).goes_on("g", "a", 9.0)


def test_nothing_is_cut_below_the_minimum_population():
    asha = Asha(reduction=4, min_population=3)
    assert asha.goes_on("g", "a", 1.0)
    assert asha.goes_on("g", "b", 2.0)
    assert not asha.goes_on("g", "c", 3.0)


def test_one_in_reduction_goes_on():
    asha = Asha(reduction=4, min_population=2)
    losses = list(range(64))
    random.Random(0).shuffle(losses)
    for place, loss in enumerate(losses, 1):
        better = sum(other < loss for other in losses[:place])
        expected = place < 2 or better < max(1, place // 4)
        assert asha.goes_on("g", str(loss), float(loss)) is expected


def test_an_improving_search_keeps_everything():
    asha = Asha(reduction=4, min_population=2)
    assert all(asha.goes_on("g", str(n), -float(n)) for n in range(64))


def test_groups_are_not_compared():
    asha = Asha(reduction=2, min_population=2)
    assert asha.goes_on(("1x16", 1), "a", 1.0)
    assert asha.goes_on(("2x32", 1), "b", 5.0)
    assert asha.goes_on(("1x16", 2), "c", 5.0)


def test_a_restarted_trial_keeps_its_answer():
    asha = Asha(reduction=2, min_population=2)
    assert asha.goes_on("g", "a", 5.0)
    for n in range(8):
        asha.goes_on("g", str(n), float(n))
    assert asha.goes_on("g", "a", 5.0)


def test_remembered_losses_count():
    asha = Asha(reduction=2, min_population=2)
    asha.remember("g", "a", 1.0)
    assert not asha.goes_on("g", "b", 2.0)
