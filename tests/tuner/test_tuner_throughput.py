"""What a plan reckons with: the best that is known of a slot's speed; and what cannot work."""

import dataclasses
import io
import json
import math

import pytest
from rich.console import Console
from typer.testing import CliRunner

from data.bounds import most_tokens
from model.memory import USABLE, training_bytes
from tuner import doctor, plan, refusals, simulate, space, status, statusview
from tuner.cli import app
from tuner.config import parse
from tuner.errors import BudgetError, ConfigError
from tuner.ledger import DONE, END, Ledger
from tuner.terminal import measured_file
from tuner.throughput import UTILIZATION, Measured, Throughput, known

HERE = Measured(
    date="2026-11-24", device="x86_64 CPU", gpu=False, memory=8e9, points={16: 1e10, 64: 4e10}
)


def sweep_of(**settings):
    return parse({"name": "s", "budgets": [3e10, 1e11], **settings}, place="s")


def test_between_measured_widths_speed_is_straight_in_log_log_and_flat_beyond():
    speed = Throughput(source="", points=((16, 1e10), (64, 4e10)))
    assert speed.rate(32) == pytest.approx(2e10)
    assert (speed.rate(8), speed.rate(16), speed.rate(1024)) == (1e10, 1e10, 4e10)
    assert speed.typical == pytest.approx(2e10)


def test_own_runs_give_their_widths_their_own_speed_and_move_the_others():
    speed = Throughput(source="", points=((16, 1e10), (64, 4e10)))
    own = speed.corrected({(1, 32): 1e10})  # half of what was reckoned with
    assert own.rate(32) == pytest.approx(1e10)
    assert own.rate(16) == pytest.approx(5e9)
    assert own.rate(64) == pytest.approx(2e10)
    assert own.source == "this sweep's own runs"
    two = speed.corrected({(1, 16): 1e10, (1, 64): 3e10, (2, 64): 6e10})
    assert two.rate(16) == pytest.approx(1e10)
    assert two.rate(64) == pytest.approx(4e10)  # both sizes of a width get the same FLOPs
    assert speed.corrected({}) == speed


@pytest.mark.parametrize(
    ("resources", "measured", "rate", "source"),
    [
        ({}, None, 1e10, "a guess; measure it with: isoflop doctor"),
        ({}, HERE, 4e10, "isoflop doctor on 2026-11-24, x86_64 CPU"),
        ({"flops_per_second": 7e10}, HERE, 7e10, "resources.flops_per_second"),
        ({"gpus_per_trial": 1}, HERE, 1e10, "a guess; measure it with: isoflop doctor"),
        (
            {"gpus_per_trial": 1, "device": "H100"}, HERE, UTILIZATION * 989e12,
            "40% of the H100's 9.89e+14 FLOP/s",
        ),
        (
            {"gpus_per_trial": 1, "device": "L4", "trials_per_gpu": 2}, None,
            UTILIZATION * 121e12 / 2, "40% of the L4's 1.21e+14 FLOP/s",
        ),
    ],
)  # fmt: skip
def test_what_is_written_rules_then_the_device_then_the_doctor(resources, measured, rate, source):
    found = known(sweep_of(resources=resources), measured)
    assert found.rate(64) == pytest.approx(rate)
    assert found.source == source


def test_hours_follow_from_the_speed_of_each_size():
    sweep = sweep_of(shapes={"ladder": [[1, 16], [1, 64]]}, search={"trials": 2})
    counted = plan.plan(sweep, throughput=known(sweep, HERE))
    assert counted.budgets[0].hours * 3600 == pytest.approx(2 * 3e10 / 1e10 + 2 * 3e10 / 4e10)
    assert counted.budgets[0].hours_expected < counted.budgets[0].hours
    assert counted.hours == pytest.approx(sum(b.hours for b in counted.budgets) * 1.05)


def test_a_cache_that_may_not_be_read_or_written_is_only_a_note(tmp_path, monkeypatch):
    (tmp_path / "isoflop").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "examine", lambda: ([], HERE))
    assert Measured.read(measured_file()) is None
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "set XDG_CACHE_HOME" in result.stderr


@pytest.mark.parametrize(
    ("told", "found", "remedy"),
    [("", "for C++", ""), ("no C++ compiler", "none that works: no C++ compiler", "install g++")],
)
def test_the_doctor_says_what_a_compiler_would_gain(monkeypatch, told, found, remedy):
    monkeypatch.setattr("model.compiling.complaint_between", lambda dtype: told)
    check = doctor._compiler()
    assert check.sound
    assert check.found == found
    assert remedy in check.remedy


def test_the_doctor_s_file_is_kept_and_a_broken_one_told_of(tmp_path):
    path = tmp_path / "cache" / "doctor.json"
    assert Measured.read(path) is None
    HERE.write(path)
    assert Measured.read(path) == HERE
    for broken in ("{", "[]", json.dumps({"points": {"16": "fast"}})):
        path.write_text(broken)
        with pytest.raises(ConfigError, match=r"doctor\.json: not what isoflop doctor writes"):
            Measured.read(path)


def test_all_that_is_in_vain_is_told_at_once(text):
    sweep = sweep_of(
        budgets=[1e10, 1e14], shapes={"ladder": [[1, 16], [4, 128]]},
        data={"source": str(text)},
    )  # fmt: skip
    speed = Throughput(source="", points=((1, 1e10),), memory=1e5)
    with pytest.raises(ConfigError) as refused:
        refusals.check(sweep, plan.plan(sweep, throughput=speed))
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    assert "budget 1e+10: a trial gets as few as 7 steps, fewer than training.min_steps" in lines[0]
    assert "1x16: one sequence takes" in lines[1]
    assert "4x128: one sequence takes" in lines[2]
    assert "budget 1e+14: its smallest shape sees" in lines[3]
    assert "data.allow_repeats = true" in lines[3]


def test_what_is_said_explicitly_is_let_through(text):
    sweep = sweep_of(
        budgets=[1e10, 1e14], shapes={"ladder": [[1, 16], [4, 128]]},
        data={"source": str(text), "allow_repeats": True}, training={"min_steps": 7},
    )  # fmt: skip
    shape = space.shape(sweep, (4, 128), 256)
    memory = training_bytes(shape, 1, recompute=True) / USABLE
    enough, less = (Throughput(source="", points=((1, 1e10),), memory=m) for m in
                    (memory, 0.99 * memory))  # fmt: skip
    refusals.check(sweep, plan.plan(sweep, throughput=enough))
    with pytest.raises(ConfigError, match="4x128: one sequence takes"):
        refusals.check(sweep, plan.plan(sweep, throughput=less))


def test_a_cap_below_what_pruning_leaves_is_refused(small):
    expected = plan.plan(small()).flops_expected
    at_most = plan.plan(small()).flops
    tight, wide = (small(cap={"flops": share}) for share in (0.9 * expected, 1.01 * expected))
    assert wide.cap.flops < at_most
    refusals.check(wide, plan.plan(wide))
    with pytest.raises(BudgetError, match=r"`cap\.flops` = .*: the plan takes about"):
        refusals.check(tight, plan.plan(tight))


def test_a_source_holds_at_most_its_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 1000)
    (tmp_path / "b.txt").write_text("y" * 500)
    assert 1500 <= most_tokens(str(tmp_path)) < 1600
    assert most_tokens(str(tmp_path / "*.txt")) == most_tokens(str(tmp_path))
    assert most_tokens(str(tmp_path), enough=100) == math.inf  # looked no further
    assert 300 <= most_tokens(str(tmp_path), 300) < 310
    assert most_tokens("synthetic:zipf2?tokens=3K") == 3000
    assert most_tokens("fineweb-edu") == math.inf
    assert most_tokens("fineweb-edu", 10**9) < 1.01e9
    (tmp_path / "c.jsonl.gz").write_bytes(b"")
    assert most_tokens(str(tmp_path)) == math.inf  # compressed: more text than bytes
    assert 1e6 < most_tokens("python-stdlib") < 1e9


def test_status_tells_the_hours_left_by_the_sweep_s_own_speed(small, tmp_path):
    """Trials in simulated time spend 1e12 FLOP/s; the file said 1e10."""
    sweep = small(resources={"flops_per_second": 1e12}, search={"extend": False})
    simulate.simulate(sweep, tmp_path)
    told = small(resources={"flops_per_second": 1e10}, search={"extend": False})
    ledger = Ledger(tmp_path / "ledger.db")
    records = ledger.records()
    assert all(rate == pytest.approx(1e12) for rate in status.own_rates(records).values())
    standing = status.of(told, ledger)
    assert standing.hours_left == 0.0  # every planned trial ended
    assert standing.throughput.source == "this sweep's own runs"
    more = told.model_copy(update={"search": told.search.model_copy(update={"trials": 5})})
    counted = plan.plan(more)
    left = sum(
        b.flops_expected * (1 - sum(r.question.budget == b.budget for r in records) / b.trials)
        for b in counted.budgets
    )
    assert status.of(more, ledger).hours_left == pytest.approx(left / 1e12 / 3600)
    standing = status.of(more, ledger)
    told = f"; about {math.ceil(left / 1e12 / 60)} min left, by this sweep's own runs"
    assert standing.line().endswith(told)
    assert not dataclasses.replace(standing, share_done=0.2).left()  # too early to tell
    (first, *others) = standing.budgets
    busy = dataclasses.replace(standing, budgets=(dataclasses.replace(first, running=2), *others))
    assert f"about {math.ceil(left / 2e12 / 60)} min left" in busy.left()
    stacked = dataclasses.replace(busy, stack=8)  # both in one slot
    assert f"about {math.ceil(left / 1e12 / 60)} min left" in stacked.left()
    ledger.write_fact(END, DONE)
    assert status.of(more, ledger).hours_left == 0.0
    ledger.close()


def test_a_sweep_that_is_done_states_the_trials_it_had_not_those_allowed_for(small, tmp_path):
    sweep = small(search={"extend": False})
    simulate.simulate(sweep, tmp_path)
    more = sweep.model_copy(update={"search": sweep.search.model_copy(update={"trials": 5})})
    ledger = Ledger(tmp_path / "ledger.db")
    had = len(ledger.records())
    allowed = plan.plan(more).trials
    assert status.of(more, ledger).planned == allowed > had
    ledger.write_fact(END, DONE)
    standing = status.of(more, ledger)
    assert (standing.ended, standing.planned) == (had, had)
    assert f"{had}/{had} trials ended" in standing.line()
    shown = Console(file=io.StringIO(), width=200)
    shown.print(statusview.table(standing))
    rows = [line.split() for line in shown.file.getvalue().splitlines()[2:]]
    assert sum(int(row[1]) for row in rows) == had
    ledger.close()
