import re
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec

import pytest
from rich.console import Console

from data.errors import CorpusError
from data.sources import find
from tuner import planview, refusals
from tuner.config import parse
from tuner.errors import BudgetError, ConfigError
from tuner.plan import RETRIES, check_corpus, plan, slot_seconds


def test_totals_add_up(small):
    counted = plan(small())
    assert counted.trials == 2 * 5 * 3
    assert counted.flops == pytest.approx(15 * 1e13 + 15 * 1e14)
    assert counted.cap == pytest.approx(counted.flops * (1 + RETRIES))
    assert counted.flops_expected < counted.flops
    assert counted.hours == pytest.approx(counted.cap / 1e10 / 3600)


def test_without_pruning_everything_is_expected(small):
    counted = plan(small(pruning={"enabled": False}))
    assert 0.99 * counted.flops < counted.flops_expected <= counted.flops


def test_a_written_cap_rules(small):
    counted = plan(small(cap={"flops": 3e14, "price_per_hour": 2}))
    assert counted.cap == 3e14
    assert counted.money == pytest.approx(2 * counted.hours)
    assert any("exceed the cap" in warning for warning in counted.warnings)


@pytest.mark.parametrize("cap", [{"seconds": 3600}, {"money": 2.0, "price_per_hour": 2.0}])
def test_a_cap_on_time_that_the_plan_exceeds_is_refused_where_speed_is_known(small, cap):
    known = small(cap=cap, backend="train", resources={"flops_per_second": 1e9})
    told = f"`cap.{next(iter(cap))} = {next(iter(cap.values())):g}` is 1 hours of a slot: the plan"
    assert any(told in warning for warning in plan(known).warnings)
    with pytest.raises(BudgetError, match=re.escape(told)):
        refusals.check(known, plan(known))
    guessed = small(cap=cap, backend="train", budgets=[1e14, 3e14])
    assert any(told in warning for warning in plan(guessed).warnings)
    refusals.check(guessed, plan(guessed))
    answered = small(cap=cap, resources={"flops_per_second": 1e9})  # by a law, at once
    assert not any(told in warning for warning in plan(answered).warnings)


def test_it_says_what_it_answers_for_and_at_what_share_of_that_run(small):
    counted = plan(small(target={"budget": 1e16}))
    assert (counted.target, counted.interval) == (1e16, None)
    shown = Console(record=True, width=200)
    planview.show(counted, shown)
    low, high = counted.flops_expected / 1e16, counted.cap / 1e16
    assert f"answers for 1e+16 FLOP and takes {low:.2g}-{high:.2g} times" in shown.export_text()


def test_shared_gpus_are_paid_once(small):
    resources = {"flops_per_second": 1e12, "gpus_per_trial": 1, "trials_per_gpu": 4}
    cap = {"price_per_hour": 2.0, "seconds": 3600}
    shared = plan(small(cap=cap, resources=resources))
    assert shared.money == pytest.approx(shared.hours / 4 * 2.0)
    assert slot_seconds(small(cap=cap, resources=resources)) == 4 * 3600
    left_open = small(cap=cap, resources={**resources, "trials_per_gpu": "auto"})
    assert slot_seconds(left_open, sharing=2) == 2 * 3600
    several = small(cap=cap, resources={"gpus_per_trial": 1, "devices": 4})
    assert slot_seconds(several) == 3600 / 4


@pytest.mark.parametrize(("tokenizer", "times"), [("byte", 1), ("bpe:8192", 4)])
def test_it_warns_of_text_that_is_read_again(small, tokenizer, times):
    data = {"source": "fineweb-edu", "max_bytes": 10_000, "allow_repeats": True}
    counted = plan(small(backend="train", data={**data, "tokenizer": tokenizer}))
    (first, _) = (w for w in counted.warnings if "times all that data.source" in w)
    read = counted.budgets[0].tokens[1] * times / (1.001 * 10_000)
    assert first.startswith("budget 1e+13") and f"about {read:.2g} times" in first


def test_it_warns_of_short_trials_and_thin_profiles(small):
    counted = plan(small(sound_steps=10**9, shapes={"per_budget": 3}))
    assert (
        sum("steps, below sound_steps = 1000000000" in warning for warning in counted.warnings) == 2
    )
    assert sum("cannot bracket a minimum" in warning for warning in counted.warnings) == 2


def test_it_refuses_what_cannot_work(small):
    ladder = {"ladder": [[1, 64], [2, 64], [40, 4096]]}
    with pytest.raises(ConfigError, match=r"1e\+13 FLOP buy no whole step"):
        plan(small(shapes={**ladder, "per_budget": 3}))
    with pytest.raises(BudgetError, match="buys no trial"):
        plan(small(cap={"flops": 1e12}))


def test_a_vocabulary_comes_from_the_tokenizer():
    sweep = parse({"name": "x", "budgets": [1e15], "data": {"tokenizer": "bpe:4096"}}, place="x")
    bytes_ = parse({"name": "x", "budgets": [1e15]}, place="x")
    assert plan(sweep).budgets[0].params[1] != plan(bytes_).budgets[0].params[1]


def test_planning_loads_neither_torch_nor_ray():
    code = (
        "import sys, tuner.plan, tuner.config, tuner.space, tuner.cli\n"
        "assert not {'torch', 'ray', 'optuna', 'pandas', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_budgets_alike_to_six_digits_are_refused(small):
    with pytest.raises(ConfigError, match="alike to six digits"):
        plan(small(budgets=[1e13, 1.0000001e13]))


def test_text_that_would_repeat_is_refused(small):
    sweep = small()
    check_corpus(sweep, plan(sweep), 10**12)
    with pytest.raises(
        ConfigError, match=r"its smallest shape sees .* tokens, python-stdlib has 9"
    ):
        check_corpus(sweep, plan(sweep), 9)
    check_corpus(small(data={"allow_repeats": True}), plan(sweep), 9)


def test_a_known_law_trains_nothing_and_its_plan_says_so(small):
    said = "a known law answers at once"
    assert any(said in warning for warning in plan(small(backend="law")).warnings)
    assert not any(said in warning for warning in plan(small(backend="train")).warnings)


@pytest.mark.parametrize(
    ("backend", "source", "installed", "told"),
    [
        ("train", "tinystories", False, True),
        ("train", "tinystories", True, False),
        ("train", "python-stdlib", False, False),
        ("train", __file__, False, False),
        ("law", "tinystories", False, False),
    ],
)
def test_a_plan_says_what_its_source_lacks_as_run_would(
    small, monkeypatch, backend, source, installed, told
):
    package = types.ModuleType("datasets")
    package.__spec__ = ModuleSpec("datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", package if installed else None)
    counted = plan(small(backend=backend, data={"source": source}))
    said = [warning for warning in counted.warnings if warning.startswith("data.source")]
    assert bool(said) is told
    if told:
        with pytest.raises(CorpusError) as refused:
            next(find(source).documents())
        prepared = "(a corpus that is prepared already does without)"
        assert said == [f"data.source: {refused.value} {prepared}"]
        assert "pip install 'isoflop[data]'" in said[0]
